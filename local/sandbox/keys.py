"""The names of keys, as xdotool takes them."""

import string

# Name → the modifier that it is.
MODIFIERS = {
    **dict.fromkeys(("ctrl", "control", "Control_L", "Control_R"), "ctrl"),
    **dict.fromkeys(("shift", "Shift_L", "Shift_R"), "shift"),
    **dict.fromkeys(("alt", "Alt_L", "Alt_R", "ISO_Level3_Shift"), "alt"),
    **dict.fromkeys(("super", "meta", "Super_L", "Super_R", "Meta_L", "Meta_R"), "super"),
}

_PUNCTUATION = {
    "space": " ",
    "exclam": "!",
    "quotedbl": '"',
    "numbersign": "#",
    "dollar": "$",
    "percent": "%",
    "ampersand": "&",
    "apostrophe": "'",
    "parenleft": "(",
    "parenright": ")",
    "asterisk": "*",
    "plus": "+",
    "comma": ",",
    "minus": "-",
    "period": ".",
    "slash": "/",
    "colon": ":",
    "semicolon": ";",
    "less": "<",
    "equal": "=",
    "greater": ">",
    "question": "?",
    "at": "@",
    "bracketleft": "[",
    "backslash": "\\",
    "bracketright": "]",
    "asciicircum": "^",
    "underscore": "_",
    "grave": "`",
    "braceleft": "{",
    "bar": "|",
    "braceright": "}",
    "asciitilde": "~",
}
_KEYPAD = {"Add": "+", "Subtract": "-", "Multiply": "*", "Divide": "/", "Decimal": ".", "Equal": "="}

# Name → the character that it writes.
SYMBOLS = {
    **_PUNCTUATION,
    **{f"KP_{name}": symbol for name, symbol in _KEYPAD.items()},
    **{f"KP_{digit}": digit for digit in string.digits},
}

_EDITING = (
    "BackSpace",
    "Delete",
    "Insert",
    "Home",
    "End",
    "Page_Up",
    "Page_Down",
    "Left",
    "Right",
    "Up",
    "Down",
)
_OTHERS = (
    "Return",
    "KP_Enter",
    "Escape",
    "Tab",
    "ISO_Left_Tab",
    "Caps_Lock",
    "Num_Lock",
    "Print",
    "Pause",
    "Menu",
)
_ALIASES = {"enter": "Return", "Prior": "Page_Up", "Next": "Page_Down", "KP_Delete": "Delete"}
_FUNCTION = [f"F{number}" for number in range(1, 25)]
_KNOWN = frozenset(
    [*MODIFIERS, *SYMBOLS, *_EDITING, *_OTHERS, *_ALIASES, *_FUNCTION, *string.ascii_letters, *string.digits]
)
_UNSHIFTED, _SHIFTED = "1234567890-=[];',./\\`", '!@#$%^&*()_+{}:"<>?|~'
_SHIFT = str.maketrans(_UNSHIFTED, _SHIFTED)


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
