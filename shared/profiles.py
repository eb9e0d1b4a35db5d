"""What is known of models, as data: a profile for each family, found by the model's name."""

import re
from dataclasses import dataclass, field
from typing import Any

from shared.schemas import Dialect


@dataclass(frozen=True, slots=True)
class Profile:
    """A family of models, and how its members are asked and read."""

    family: str
    names: re.Pattern[str]
    dialect: Dialect
    extra_body: dict[str, Any] = field(default_factory=dict)
    """What goes along in each request; others than the family would refuse it."""


PROFILES = (
    # Thinks aloud by default, which only costs time here.
    Profile(
        "Doubao UI-TARS", re.compile("doubao", re.IGNORECASE), "doubao", {"thinking": {"type": "disabled"}}
    ),
    # Open weights, served by vLLM and alike: writes absolute pixels of the image as it sees it.
    Profile("UI-TARS 1.5", re.compile(r"ui-?tars-1[.-]5", re.IGNORECASE), "ui-tars-1.5"),
    # A general vision model follows the prompt: thousandths of the screen.
    Profile("general", re.compile(""), "doubao"),
)


def profile_of(model_name: str) -> Profile:
    """The first profile whose names fit; the last one fits all.

    >>> profile_of("ByteDance-Seed/UI-TARS-1.5-7B").dialect
    'ui-tars-1.5'
    """
    return next(profile for profile in PROFILES if profile.names.search(model_name))
