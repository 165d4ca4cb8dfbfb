"""Put a run on one page: the verdict first, then recipe and reasons, curves, facts, and how to repeat it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from trivet.doctor import examine
from trivet.facts import Profile
from trivet.figures import curves
from trivet.figures.style import number, to_svg
from trivet.recipes.explain import short, stated, sureness
from trivet.record import Record, Result, Run, TaskCard
from trivet.tuning import LRRange, Race

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6472; --paper: #fdfdfb; --card: #f3f3ee; --line: #dcdcd4;
  --accent: #00795a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e7e1; --soft: #a5abb5; --paper: #15181d; --card: #1e2229;
  --line: #343a44; --accent: #3fc79a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.15rem; font-weight: 600; color: var(--soft); margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
.verdict { font-size: 2.1rem; line-height: 1.2; font-weight: 650; margin: .2rem 0 .4rem; }
.verdict b { color: var(--accent); }
.soft, figcaption { color: var(--soft); }
figure { margin: 1rem 0; color: var(--soft); } figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { white-space: nowrap; color: var(--soft); }
pre { background: var(--card); padding: .9rem 1rem; border-radius: .5rem; overflow-x: auto; font-size: .86rem; }
.why { background: var(--card); border-radius: .5rem; padding: .7rem 1rem; margin: .6rem 0; }
.why code { font-weight: 600; } .why p { margin: .3rem 0; } .tag { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
@media (max-width: 44rem) { figure { overflow-x: auto; } figure svg { max-width: none !important;
  width: calc(var(--share) * 44rem); } figcaption { position: sticky; left: 0; } }
"""


def write_report(run: Run) -> Path:
    """Write `report.html` into the run's directory from the files that are there; returns its path."""
    record = run.record
    result = run.read("result.json", Result)
    task = run.read("task.json", TaskCard)
    title = f"{task.name}: {task.kind}" if task else run.name
    body = "".join(
        (
            _verdict(run, title, result, task),
            _recipe(run),
            _curves(record),
            _findings(record),
            _range_test(run),
            _race(run),
            _facts(run, task),
            _reproduce(run, task),
        )
    )
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>trivet: {escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
    return run.write_bytes("report.html", page.encode())


def _verdict(run: Run, title: str, result: Result | None, task: TaskCard | None) -> str:
    head = f"<h1>{escape(title)}</h1>"
    if result is None:
        best = run.record.best()
        so_far = f"; best on validation so far: {number(best.metric)}" if best else ""
        return f"{head}<p class='verdict'>No verdict yet</p><p class='soft'>The run is {run.status}{so_far}.</p>"
    metric = result.metric
    low, high = metric.interval
    name = metric.name.replace("_", " ")
    figure = curves.bars(
        ["this run", *(b.name for b in metric.baselines)],
        [metric.test, *(b.value for b in metric.baselines)],
        interval=(low, high),
        label=f"{name} on the test split",
    )
    label = f"{name} of this run, {number(metric.test)}, beside its baselines"
    return (
        f"{head}<p class='verdict'><b>{number(metric.test)}</b> {escape(name)}</p>"
        f"<p>{escape(result.verdict)}</p>"
        f"<figure>{to_svg(figure, label=label)}<figcaption>Test split of {result.test_rows:,} rows that no choice "
        f"looked at; the bar is a 95 % bootstrap interval, {number(low)} to {number(high)}"
        f"{', higher is better' if metric.higher_is_better else ', lower is better'}.</figcaption></figure>"
        f"{_decision(result, task)}"
    )


def _decision(result: Result, task: TaskCard | None) -> str:
    decision = result.decision
    if decision is None:
        return ""
    name = task.classes[1] if task and len(task.classes) > 1 else "class 1"
    before, after = decision.log_loss
    return (
        f"<p>Decide for <b>{escape(name)}</b> when its probability, <code>sigmoid({decision.slope:.3g} * logit "
        f"{'+' if decision.shift >= 0 else '-'} {abs(decision.shift):.3g})</code>, is at least "
        f"<b>{decision.threshold:.3g}</b>. <span class='soft'>Calibrated on the validation rows (log loss "
        f"{before:.3g} before, {after:.3g} after); the threshold is the best for the "
        f"{escape(decision.by.replace('_', ' '))} expected there.</span></p>"
    )


def _recipe(run: Run) -> str:
    recipe = run.recipe
    blocks = []
    for advice in recipe.why:
        facts = ", ".join(f"{escape(k)} {escape(short(v))}" for k, v in advice.evidence.items())
        against = "".join(
            f"<p class='soft'>Not <b>{escape(name)}</b>: {escape(reason)}.</p>"
            for name, reason in advice.rejected.items()
        )
        tags = "; ".join(filter(None, (sureness(advice.confidence), facts, advice.source)))
        blocks.append(
            f"<div class='why'><code>{escape(stated(recipe, advice))}</code><p>{escape(advice.reason)}</p>{against}"
            f"<p class='tag'>{tags if not advice.source else escape(tags)}</p></div>"
        )
    return f"<h2>The recipe</h2><pre>{escape(recipe.to_toml())}</pre><h2>Why this recipe</h2>{''.join(blocks)}"


def _curves(record: Record) -> str:
    if not record.steps:
        return ""
    val = [e for e in record.evals if e.split == "val"]
    best = record.best()
    figure = curves.training(
        [s.step for s in record.steps],
        [s.loss for s in record.steps],
        [s.lr for s in record.steps],
        [s.grad_norm for s in record.steps],
        eval_steps=[e.step for e in val],
        metrics=[e.metric for e in val],
        eval_losses=[e.loss for e in val],
        metric=record.start.metric if record.start else "metric",
        best_step=best.step if best else None,
    )
    notes = "".join(f"<li>step {note.step}: {escape(note.text)}</li>" for note in record.notes)
    ended = (
        f"{record.end.reason} after {record.end.step:,} steps and {record.end.seconds:.0f} s"
        if record.end
        else "unfinished"
    )
    return (
        f"<h2>How it went</h2><figure>{to_svg(figure, label='loss, metric, rate and gradient norm over steps')}"
        f"<figcaption>{ended}. The circle marks the weights that were kept.</figcaption></figure>"
        + (f"<ul>{notes}</ul>" if notes else "")
    )


def _findings(record: Record) -> str:
    """Show what the doctor says of the whole run, the root cause first."""
    if not record.steps:
        return ""
    blocks = []
    for finding in examine(record):
        numbers = ", ".join(f"{escape(key)} {escape(short(value))}" for key, value in finding.evidence.items())
        where = "".join(
            (f"step {finding.step:,}" if finding.step else "", f" {finding.layer}" if finding.layer else "")
        )
        tags = "; ".join(filter(None, (sureness(finding.confidence), where.strip(), numbers)))
        blocks.append(
            f"<div class='why'><code>{finding.code} {finding.severity}</code><p>{escape(finding.message)}</p>"
            f"<p><b>Try:</b> <code>{escape(str(finding.fix))}</code></p>"
            f"<p class='tag'>{escape(tags)}. "
            f"It would be wrong if {escape(finding.refuted_by)}.</p></div>"
        )
    said = "".join(blocks) or "<p class='soft'>Nothing that looks wrong.</p>"
    return f"<h2>What the doctor saw</h2>{said}"


def _range_test(run: Run) -> str:
    found = run.read("lr_range.json", LRRange)
    if found is None or not found.rates:
        return ""
    return (
        f"<h2>The learning rate</h2><figure>{to_svg(found.plot(), label='loss against learning rate')}"
        f"<figcaption>{escape(str(found))}: {escape(found.reason)}; {found.seconds:.1f} s.</figcaption></figure>"
    )


def _race(run: Run) -> str:
    found = run.read("race.json", Race)
    if found is None:
        return ""
    metrics: dict[str, list[str]] = {name: [] for name in found.plan.contenders}
    for heat in found.heats:
        metrics[heat.contender].append("diverged" if heat.metric is None else number(heat.metric))
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{', '.join(values)}</td></tr>" for name, values in metrics.items() if values
    )
    return f"<h2>The race before it</h2><p><b>{escape(found.choice)}.</b> {escape(found.reason)}</p>" + (
        f"<table>{rows}</table><p class='soft'>The best validation metric of each run of {found.plan.steps:,} "
        f"steps, every one with its own whole decay; {len(found.heats)} runs in {found.seconds:.0f} s.</p>"
        if rows
        else ""
    )


def _facts(run: Run, task: TaskCard | None) -> str:
    facts = run.read("profile.json", Profile)
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in (facts.rows() if facts else []))
    notes = "".join(f"<li>{escape(note)}</li>" for note in (task.notes if task else ()))
    splits = ", ".join(f"{name} {count:,}" for name, count in (task.rows if task else {}).items())
    return (
        "<h2>The data and the model</h2>"
        + (f"<ul>{notes}</ul>" if notes else "")
        + f"<div class='wide'><table><tr><td>rows</td><td>{splits}</td></tr>{rows}</table></div>"
    )


def _reproduce(run: Run, task: TaskCard | None) -> str:
    environment = run.read("environment.json", dict[str, str | int]) or {}
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in environment.items())
    return (
        f"<h2>Do it again</h2><pre>{escape(task.command if task else '')}</pre>"
        "<p class='soft'>The same seed on the same machine and versions gives the same numbers; other processors "
        "may round differently.</p>"
        f"<div class='wide'><table>{rows}</table></div>"
    )
