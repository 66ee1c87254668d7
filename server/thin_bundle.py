"""The one file of the bundle that Flower asks for: the code that runs is what the coordinator and the members installed."""

from __future__ import annotations

from ringfence.model.round_messages import APP_ID

BUNDLE_PROJECT = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{APP_ID.split("/")[1]}"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "{APP_ID.split("/")[0]}"

[tool.flwr.app.components]
serverapp = "ringfence.server.app:app"
clientapp = "ringfence.client.app:app"

[tool.flwr.app.config]
run = ""
"""
