"""What processes show to Prometheus, as the official parser reads it."""

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def families(shown: str) -> dict[str, Metric]:
    """What is shown, by the names that stand in the text."""
    found = text_string_to_metric_families(shown)
    return {one.name + ("_total" if one.type == "counter" else ""): one for one in found}


def value(shown: str, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels; 0 if there are none."""
    found = (one for family in families(shown).values() for one in family.samples)
    return sum(one.value for one in found if one.name == name and labels.items() <= one.labels.items())
