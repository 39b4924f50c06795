"""All that we do in BigQuery: worklists, read sessions, write streams, tables, views and books. No Beam here."""
