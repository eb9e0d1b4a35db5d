"""The names of keys, as xdotool takes them."""

import string

# Name → the modifier that it is.
MODIFIERS = {
    **dict.fromkeys(("ctrl", "control", "Control_L", "Control_R"), "ctrl"),
    **dict.fromkeys(("shift", "Shift_L", "Shift_R"), "shift"),
    **dict.fromkeys(("alt", "Alt_L", "Alt_R", "ISO_Level3_Shift"), "alt"),
    **dict.fromkeys(("super", "meta", "Super_L", "Super_R", "Meta_L", "Meta_R"), "super"),
}

# In the order of ASCII, as the characters of `string.punctuation` are.
_PUNCTUATION = (
    "exclam quotedbl numbersign dollar percent ampersand apostrophe parenleft parenright asterisk plus comma"
    " minus period slash colon semicolon less equal greater question at bracketleft backslash bracketright"
    " asciicircum underscore grave braceleft bar braceright asciitilde"
)
_KEYPAD = {"Add": "+", "Subtract": "-", "Multiply": "*", "Divide": "/", "Decimal": ".", "Equal": "="}

# Name → the character that it writes.
SYMBOLS = {
    "space": " ",
    "Return": "\n",
    "KP_Enter": "\n",
    **dict(zip(_PUNCTUATION.split(), string.punctuation, strict=True)),
    **{f"KP_{name}": symbol for name, symbol in _KEYPAD.items()},
    **{f"KP_{digit}": digit for digit in string.digits},
}

_OTHERS = (
    "BackSpace Delete Insert Home End Page_Up Page_Down Left Right Up Down Escape Tab ISO_Left_Tab Caps_Lock"
    " Num_Lock Print Pause Menu F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 F11 F12"
    " F13 F14 F15 F16 F17 F18 F19 F20 F21 F22 F23 F24"
)
_ALIASES = {"enter": "Return", "Prior": "Page_Up", "Next": "Page_Down", "KP_Delete": "Delete"}
_KNOWN = frozenset([*MODIFIERS, *SYMBOLS, *_OTHERS.split(), *_ALIASES, *string.ascii_letters, *string.digits])
_SHIFT = str.maketrans("1234567890-=[];',./\\`", '!@#$%^&*()_+{}:"<>?|~')


def parts(combination: str) -> list[str]:
    """`ctrl+shift+s` → its keys. An unknown name is a ValueError that tells it."""
    names = combination.split("+")
    unknown = [name for name in names if name not in _KNOWN]
    if unknown:
        raise ValueError(f"no key is named {unknown[0][:40]!r}")
    return [_ALIASES.get(name, name) for name in names]


def character(key: str, *, shift: bool) -> str:
    """What the key writes; nothing if it writes nothing."""
    symbol = SYMBOLS.get(key, key)
    if len(symbol) != 1:
        return ""
    return symbol.upper().translate(_SHIFT) if shift else symbol
