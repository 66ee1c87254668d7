"""How the database's form changed, one step a file under ``versions``; applied by `ringfence.server.database_schema`."""
