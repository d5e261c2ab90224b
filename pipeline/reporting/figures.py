"""Figures and names as people read them, on the page, in the card and on the terminal."""


def printable(text: str) -> str:
    """The text with all that is not printable (controls, reversals of direction) as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count(value: int) -> str:
    """A number of things."""
    return f"{value:,}"


def size(value: float) -> str:
    """Bytes, in units of 1,000."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            scaled = value / scale
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.1f} {unit}"
    return f"{value:.0f} B"


def percent(share: float) -> str:
    """A share of one; small ones are not called nothing."""
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}" if share >= 0.001 else "<0.1%"


def seconds(value: float) -> str:
    """A time, to three digits or so."""
    if value < 100:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def rate(amount: float, time: float) -> str:
    """Bytes a second."""
    return f"{size(amount / time)}/s" if time > 0 and amount else "-"


def rough(value: float) -> str:
    """A time as one says it of what is to come: `40 s`, `12 min`, `2 h 10 min`."""
    if value < 90:
        return f"{round(value) if value < 20 else 5 * round(value / 5)} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
