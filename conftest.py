"""What nbval leaves uncompared when it runs the notebooks again: warnings, and tables, whose text form is compared."""


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # only the notebook collectors of nbval have it
        collector.skip_compare += ("stderr", "text/html")
