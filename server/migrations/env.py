"""What Alembic runs for a migration: the steps, in the caller's transaction."""

from alembic import context

from ringfence.server.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite has it too, because nothing commits behind our back
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
