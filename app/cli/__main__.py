"""`python -m app.cli`."""

from app.cli.main import main

main(prog_name="inferenceflow")
