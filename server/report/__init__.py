"""The report of a run: one HTML file that needs nothing else."""

from server.report.facts import SiteFiles
from server.report.page import render_report

__all__ = ["SiteFiles", "render_report"]
