"""The commands by name; each is imported only when it runs."""

from __future__ import annotations

from cyclopts import App

import trivet

app = App(
    name="trivet",
    help="Choose, prove, run, watch and explain a training recipe: loss, optimizer, learning rate.",
    version=trivet.__version__,
    version_flags=["--version"],
    help_format="plaintext",
)

_COMMANDS = {
    "fit": ("fit", "Choose a recipe for DATA, find the rate, train, judge, report."),
    "recommend": ("recommend", "Recommend a recipe for DATA and say why."),
    "report": ("report", "Write the report of a run again and print where it is."),
    "export": ("export", "Write a run as a plain PyTorch script with its data."),
    "show": ("show", "Show the page of a loss, optimizer or schedule, or list them all."),
    "env": ("env", "Show versions, threads and devices."),
}
for _name, (_function, _help) in _COMMANDS.items():
    app.command(f"trivet.cli.commands:{_function}", name=_name, help=_help)

app.command("trivet.cli.compare:compare", name="compare", help="Compare recipes or optimizers over paired seeds.")
app.command("trivet.cli.lint:lint", name="lint", help="Say what is wrong with RECIPE on DATA before it runs.")
app.command("trivet.cli.predict:predict", name="predict", help="Predict new rows with a finished run.")
app.command("trivet.cli.doctor:doctor", name="doctor", help="Say what went wrong in a run, from any tool's log.")
app.command("trivet.cli.follow:follow", name="follow", help="Draw a run in the terminal while it goes on.")
app.command("trivet.cli.search:search", name="search", help="Search for a recipe within a budget, and prove it.")
app.command("trivet.cli.rates:lr_find", name="lr-find", help="Find the learning rate for DATA.")
app.command("trivet.cli.rates:schedule", name="schedule", help="Show the rate of RECIPE over a run, before it runs.")
app.command("trivet.cli.runs:app", name="runs", help="List runs; compare or remove them.")

# For bash, zsh and fish; `--shell` names one, `--output` another file than the shell's own.
app.register_install_completion_command(add_to_startup=False)
