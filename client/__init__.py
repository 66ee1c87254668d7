"""The member company: training agent, releases, scoring, command line."""
