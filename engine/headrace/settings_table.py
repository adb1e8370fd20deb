"""The README's table of settings, made from the knobs' metadata. `python -m headrace.settings_table` prints it."""

from headrace import config, parsers


def render() -> str:
    """Markdown: one row a setting, in the order of Config. Ends without a newline."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, item in config.KNOBS.items():
        meta = item.metadata
        words = [meta["help"]]
        if meta["choices"]:
            words.append("one of " + ", ".join(f"`{choice}`" for choice in meta["choices"]))
        aliases = [f"`{variable}`" for variable, field, _ in parsers.ALIASES if field == name]
        if aliases:
            words.append("also " + ", ".join(aliases))
        default = meta["shown"] or config.show(name, item.default)
        rows.append(f"| `{meta['variable']}` | {default} | {'; '.join(words)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(render())
