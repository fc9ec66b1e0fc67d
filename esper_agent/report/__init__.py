"""A run as one page that needs nothing else: `report.html`."""

from esper_agent.report.evaluation import evaluate_baselines
from esper_agent.report.page import write_page, write_report

__all__ = ["evaluate_baselines", "write_page", "write_report"]
