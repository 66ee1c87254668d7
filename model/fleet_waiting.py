"""How a member asks the coordinator to hold its question for work until there is some, instead of asking again and again."""

WAIT_HEADER = "ringfence-wait-s"
"""On a question for work: for how many seconds the coordinator may hold it."""

LONGEST_WAIT_S = 20.0
"""Shorter than what firewalls and proxies forget an idle connection after, and than a call's own time limit."""
