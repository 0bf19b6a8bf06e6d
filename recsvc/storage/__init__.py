"""PostgreSQL: pools, migrations, repositories, and the one place where a request becomes SQL."""
