"""Command line: the report of a run, `report.html`, made anew."""

from efficientdet_tf.cli.report import run

if __name__ == "__main__":
    run()
