"""What every test may ask for."""

pytest_plugins = ["tests.support.postgres", "tests.support.s3", "tests.support.upkeep"]
