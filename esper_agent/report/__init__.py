"""A run as one page that needs nothing else: `report.html`."""

from esper_agent.report.page import evaluate_baselines, write_page, write_report

__all__ = ["evaluate_baselines", "write_page", "write_report"]
