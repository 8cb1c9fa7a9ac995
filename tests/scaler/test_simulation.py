from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from workers.scaler.forecast import Prior
from workers.scaler.knobs import QueueKnobs
from workers.scaler.ladder import Level
from workers.scaler.simulate.__main__ import main
from workers.scaler.simulate.engine import Run, World, simulate
from workers.scaler.simulate.policies import (
    InferenceFlow,
    KedaListLength,
    Oracle,
    Reactive,
    Static,
)
from workers.scaler.simulate.priors import PriorBook, fit_priors
from workers.scaler.simulate.trace import (
    Shape,
    TraceError,
    Workload,
    from_rate,
    load_trace,
    make_workload,
)
from workers.scaler.simulate.tune import (
    Candidate,
    Experiment,
    Space,
    choose,
    search,
    spaces,
    spread,
)

ROOT = Path(__file__).parents[2]
TRACES = ROOT / "benchmarks" / "data" / "traces"
HOUR = 3600.0
STEP = 10.0
SHAPE = Shape(service_seconds=8.0)
KNOBS = QueueKnobs(slots_per_replica=4, cold_start_seconds=120.0, max_replicas=30)


def steady(hours: float, load: float) -> np.ndarray[Any, Any]:
    """Rates that keep `load` slots busy."""
    return np.full(int(hours * HOUR / STEP), load / SHAPE.service_seconds)


def workload(rates: np.ndarray[Any, Any]) -> Workload:
    return from_rate("normal", rates, STEP, SHAPE, np.random.default_rng(5))


def world(**changes: Any) -> World:
    settings: dict[str, Any] = {
        "cold_start": lambda _: KNOBS.cold_start_seconds,
        "slots": KNOBS.slots_per_replica,
        "initial_replicas": 5,
        "tick": 30.0,
    }
    return World(**{**settings, **changes})


def late(run: Run, jobs: Workload, since: float, until: float) -> float:
    """Share of late jobs among those that arrived in the given time."""
    low, high = np.searchsorted(jobs.arrivals, [since, until])
    return float(np.mean(run.waits[low:high] > 15.0))


def desired(run: Run, since: float, until: float) -> list[int]:
    return [sample.desired for sample in run.samples if since <= sample.at < until]


# The simulator itself.


def test_waits_are_those_of_queueing_theory() -> None:
    jobs = from_rate(
        "q",
        np.full(360_000, 0.9),
        1.0,
        Shape(service_seconds=8.0, service_cv=0.0),
        np.random.default_rng(3),
    )
    exponential = np.random.default_rng(4).exponential(8.0, len(jobs.arrivals))
    jobs = make_workload("q", jobs.arrivals, exponential, jobs.duration)
    run = simulate(jobs, Static(2), world(slots=4, initial_replicas=2))
    # Erlang's C formula for 8 servers at a load of 7.2.
    load, servers = 7.2, 8
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    wait = last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)
    assert float(np.mean(run.waits > 0.0)) == pytest.approx(wait, abs=0.05)
    assert float(np.mean(run.waits)) == pytest.approx(wait * 8.0 / (servers - load), rel=0.25)
    assert run.replica_hours == pytest.approx(2 * 100.0)
    assert run.actions == 0


class Steps:
    """A policy that does as it was told."""

    def __init__(self, *targets: int) -> None:
        self._targets = list(targets)
        self.seen: list[Any] = []

    def target(self, signals: Any) -> int:
        self.seen.append(signals)
        return self._targets.pop(0) if len(self._targets) > 1 else self._targets[0]


def test_replicas_start_cold() -> None:
    jobs = make_workload("q", np.array([1.0, 2.0]), np.array([100.0, 5.0]), 300.0)
    run = simulate(jobs, Steps(2), world(slots=1, initial_replicas=1, cold_start=lambda _: 40.0))
    assert run.waits.tolist() == [0.0, 38.0]
    assert run.violation_rate == 0.5
    assert run.p95_wait == pytest.approx(36.1)


def test_a_replica_that_goes_finishes_its_jobs_and_is_paid_until_then() -> None:
    jobs = make_workload("q", np.array([1.0, 2.0, 40.0]), np.array([100.0, 5.0, 5.0]), 300.0)
    policy = Steps(2, 1, 0)
    run = simulate(jobs, policy, world(slots=1, initial_replicas=2))
    # The idle one goes at 30 s, the busy one at 60 s: it runs until 101 s.
    assert run.replica_hours * HOUR == pytest.approx(2 * 30 + 30 + 41)
    assert run.waits[2] == math.inf
    assert [seen.running for seen in policy.seen[:4]] == [0, 1, 1, 1]


def test_pods_that_have_not_started_go_first() -> None:
    jobs = make_workload("q", np.array([1.0]), np.array([5.0]), 120.0)
    policy = Steps(1, 3, 1)
    run = simulate(jobs, policy, world(slots=1, initial_replicas=1, cold_start=lambda _: 600.0))
    assert [sample.ready for sample in run.samples] == [1, 1, 1, 1]
    assert run.replica_hours * HOUR == pytest.approx(30 + 90 + 30 + 30)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.floats(0, 300))
def test_every_job_is_served_once(targets: list[int], cold_start: float) -> None:
    rng = np.random.default_rng(1)
    jobs = make_workload("q", np.sort(rng.random(200) * 500.0), rng.exponential(10.0, 200), 600.0)
    run = simulate(jobs, Steps(*targets, 1), world(slots=2, cold_start=lambda _: cold_start))
    assert len(run.waits) == 200
    assert np.all(run.waits >= 0.0)
    assert all(sample.running >= 0 and sample.queued >= 0 for sample in run.samples)


# The product's decisions under bad weather.


def test_a_steady_load_is_served() -> None:
    jobs = workload(steady(6, 12))
    run = simulate(jobs, InferenceFlow(KNOBS, None), world())
    assert run.violation_rate < 0.01
    assert run.replica_hours < 6 * 6.0


def test_a_threefold_surge_is_met_as_fast_as_replicas_start() -> None:
    rates = steady(6, 12)
    rates[int(2 * HOUR / STEP) : int(4 * HOUR / STEP)] *= 3.0
    jobs = workload(rates)
    run = simulate(jobs, InferenceFlow(KNOBS, None), world())
    surge = 2 * HOUR
    assert max(desired(run, surge, surge + 180)) >= 9
    # Two cold starts and the drain of what waited meanwhile.
    assert late(run, jobs, surge + 600, surge + 2 * HOUR) < 0.01
    assert late(run, jobs, HOUR, surge) < 0.03
    assert max(desired(run, 5 * HOUR, 6 * HOUR)) <= 6


def test_an_outage_of_the_signals_scales_nothing_in() -> None:
    jobs = workload(steady(5, 12))
    policy = InferenceFlow(KNOBS, None)
    lost = (2 * HOUR, 3 * HOUR)
    run = simulate(jobs, policy, world(signals_lost=lambda at: lost[0] <= at < lost[1]))
    [held] = set(desired(run, *lost))
    assert held >= desired(run, lost[0] - 60, lost[0])[-1]
    during = [one for one in policy.decisions if lost[0] <= one.signals.at < lost[1]]
    assert {one.trust.level for one in during} == {Level.HOLD}
    assert policy.decisions[-1].trust.level is Level.NOWCAST
    assert run.violation_rate < 0.02


def test_an_outage_without_arrivals_does_not_scale_out_for_what_is_not_there() -> None:
    rates = steady(5, 12)
    rates[int(2 * HOUR / STEP) : int(3 * HOUR / STEP)] = 0.0
    jobs = workload(rates)
    run = simulate(jobs, InferenceFlow(KNOBS, None), world())
    assert min(desired(run, 2.5 * HOUR, 3 * HOUR)) == KNOBS.min_replicas
    assert late(run, jobs, 3 * HOUR + 600, 5 * HOUR) < 0.01


class RightPriors(PriorBook):
    """A season that is the true rate."""

    def __init__(self) -> None:
        super().__init__({})

    def at(self, moment: float) -> Prior | None:
        rate = 12.0 / SHAPE.service_seconds
        return Prior(fitted_at=moment, start=moment - 6000.0, values=(rate,) * 40, step=600.0)


def test_clients_that_come_back_all_at_once_find_their_replicas() -> None:
    rates = steady(9, 12)
    rates[int(7 * HOUR / STEP) : int(8 * HOUR / STEP)] = 0.0
    jobs = workload(rates)
    knobs = replace(KNOBS, min_history_seconds=0.0)
    seasonal = simulate(jobs, InferenceFlow(knobs, RightPriors()), world())
    alone = simulate(jobs, InferenceFlow(knobs, None), world())
    assert min(desired(seasonal, 7.5 * HOUR, 8 * HOUR)) >= 3
    assert min(desired(alone, 7.5 * HOUR, 8 * HOUR)) == KNOBS.min_replicas
    back = (8 * HOUR, 8 * HOUR + 300)
    assert late(seasonal, jobs, *back) < 0.05 < 0.2 < late(alone, jobs, *back)


class WrongPriors(PriorBook):
    """A season that is always wrong by the same factor."""

    def __init__(self, factor: float) -> None:
        super().__init__({})
        self._rate = factor * 12.0 / SHAPE.service_seconds

    def at(self, moment: float) -> Prior | None:
        shape = tuple(self._rate * (1.0 + 0.9 * (-1) ** i) for i in range(40))
        return Prior(fitted_at=moment, start=moment - 6000.0, values=shape, step=600.0)


@pytest.mark.parametrize("factor", [0.0, 0.2, 5.0])
def test_a_wrong_forecast_is_found_out_and_costs_little(factor: float) -> None:
    jobs = workload(steady(12, 12))
    knobs = QueueKnobs(
        slots_per_replica=4, cold_start_seconds=480.0, max_replicas=30, min_history_seconds=0.0
    )
    conditions = world(cold_start=lambda _: 480.0)
    honest = simulate(jobs, InferenceFlow(knobs, None), conditions)
    policy = InferenceFlow(knobs, WrongPriors(factor))
    misled = simulate(jobs, policy, conditions)
    if factor > 1.0:
        last = policy.decisions[-1]
        assert last.trust.level is Level.NOWCAST
        assert last.trust.reason == "season worse than the last value"
    assert misled.violation_rate <= honest.violation_rate + 0.005
    assert misled.replica_hours < 1.1 * honest.replica_hours


def test_pods_that_never_start_are_not_asked_for_without_end() -> None:
    rates = steady(5, 12)
    rates[int(2 * HOUR / STEP) :] *= 2.0
    jobs = workload(rates)
    until = 3.5 * HOUR

    def broken(at: float) -> float:
        return max(until - at, 0.0) + 120.0 if at >= 2 * HOUR else 120.0

    run = simulate(jobs, InferenceFlow(KNOBS, None), world(cold_start=broken))
    stuck_since = 2 * HOUR + KNOBS.stuck_after_seconds + 300
    assert max(desired(run, stuck_since, until)) < KNOBS.max_replicas
    assert len(set(desired(run, stuck_since, until))) == 1
    assert late(run, jobs, until + HOUR, 5 * HOUR) < 0.02


def test_the_reactive_rules_scale_too() -> None:
    jobs = workload(steady(4, 12))
    reactive = simulate(jobs, Reactive(KNOBS, utilisation=0.7), world())
    assert reactive.violation_rate < 0.02
    oracle = simulate(jobs, Oracle(KNOBS, jobs, beta=1.0), world())
    assert oracle.replica_hours < reactive.replica_hours
    keda = simulate(jobs, KedaListLength(KNOBS), world())
    assert keda.violation_rate > 0.05


@pytest.mark.parametrize("policy", [Reactive(KNOBS, utilisation=0.7), KedaListLength(KNOBS)])
def test_rules_hold_without_signals(policy: Any) -> None:
    jobs = workload(steady(1, 12))
    run = simulate(jobs, policy, world(signals_lost=lambda _: True))
    assert set(desired(run, 0, HOUR)) == {5}


# Traces, priors, tuning.


def test_rates_become_jobs_of_the_wanted_load() -> None:
    jobs = load_trace(TRACES / "servegen_deepseek-r1_rate600s.csv", Shape(mean_load=12.0))
    assert jobs.duration == 86_400.0
    assert jobs.service_sums[-1] / jobs.duration == pytest.approx(12.0, rel=0.05)
    assert sum(jobs.minute_counts) == len(jobs.arrivals)
    assert np.all(np.diff(jobs.arrivals) >= 0.0)


def test_requests_keep_their_arrivals() -> None:
    jobs = load_trace(TRACES / "AzureLLMInferenceTrace_code.csv", Shape(mean_load=12.0))
    assert len(jobs.arrivals) == 8819
    assert jobs.service_sums[-1] / jobs.duration == pytest.approx(12.0)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", "t_s,rate_rps\n0,1\n"])
def test_other_files_are_no_traces(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(TraceError):
        load_trace(path, Shape())


def test_priors_are_fitted_on_the_past_and_kept(tmp_path: Path) -> None:
    jobs = workload(steady(50, 12))
    book = fit_priors(jobs, 48 * HOUR, cache=tmp_path)
    assert len(book) == 2
    assert book.at(47 * HOUR) is None
    known = book.at(49.5 * HOUR)
    assert known is not None
    assert known.fitted_at == 49 * HOUR
    assert known.at(49.5 * HOUR) == pytest.approx(1.5, rel=0.1)
    [kept] = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    again = fit_priors(jobs, 48 * HOUR, cache=tmp_path)
    assert again.at(49.5 * HOUR) == known
    assert kept.stat().st_mtime_ns == written


def test_the_search_covers_its_box() -> None:
    points = spread(16, (0.0, 1.0), (10.0, 20.0))
    assert len(set(points)) == 16
    for axis, (low, high) in enumerate([(0.0, 1.0), (10.0, 20.0)]):
        values = [point[axis] for point in points]
        assert low <= min(values) < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < max(values) <= high


def test_every_tuned_policy_has_the_same_budget() -> None:
    jobs = workload(steady(1, 12))
    for policy, space in spaces(Experiment(jobs, PriorBook({}), world(), KNOBS)).items():
        tried: list[Candidate] = []

        def evaluate(candidate: Candidate, tried: list[Candidate] = tried) -> Run:
            tried.append(candidate)
            return simulate(jobs, candidate.build(), world())

        search(space, 5, evaluate, 0.01)
        assert len(tried) == (1 if policy == "keda_list_length" else 5)


def test_the_search_looks_around_the_best() -> None:
    space = Space(((0.0, 90.0),), lambda point: Candidate({"x": point[0]}, partial(Static, 1)))
    seen: list[float] = []

    def evaluate(candidate: Candidate) -> Run:
        seen.append(candidate.settings["x"])
        return run_of(abs(seen[-1] - 50.0), 0)

    best, run = search(space, 20, evaluate, 0.01)
    assert run.replica_hours == min(abs(x - 50.0) for x in seen)
    assert abs(best.settings["x"] - 50.0) < 2.0
    assert all(35.0 - 8.0 < x < 65.0 + 8.0 for x in seen[12:])


def run_of(hours: float, late_jobs: int) -> Run:
    return Run(hours, np.zeros(100), late_jobs, 0, [])


def test_the_cheapest_good_run_is_chosen_or_else_the_best() -> None:
    runs = [run_of(5, 0), run_of(3, 1), run_of(1, 50), run_of(4, 0)]
    assert choose(runs, 0.01) == 1
    assert choose(runs, 0.001) == 3
    assert choose([*runs[2:3], run_of(2, 40)], 0.01) == 1


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("plots")
    result = CliRunner().invoke(
        main,
        [
            str(TRACES / "servegen_deepseek-r1_rate600s.csv"),
            *("--cold-start", "180", "--json", "--budget", "3", "--mean-load", "6"),
            *("--plot", str(out / "mine.png")),
        ],
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.output), out


def test_the_report_names_every_policy(report: tuple[dict[str, Any], Path]) -> None:
    rows = {row["policy"]: row for row in report[0]["policies"]}
    assert set(rows) == {
        "inferenceflow",
        "reactive_tuned",
        "nowcast",
        "keda_list_length",
        "static",
        "oracle",
    }
    for row in rows.values():
        assert row["replica_hours"] > 0.0
        assert 0.0 <= row["violation_rate"] <= 1.0
        assert row["p95_wait_seconds"] >= 0.0
        assert row["actions"] >= 0
    assert rows["oracle"]["replica_hours"] < rows["static"]["replica_hours"]
    assert report[0]["cold_start_seconds"] == 180.0


def test_plots_are_written_and_need_no_network(report: tuple[dict[str, Any], Path]) -> None:
    png, page = (Path(path) for path in report[0]["plots"])
    assert (png.name, page.name) == ("mine.png", "mine.html")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "<svg" in text
    assert "src=" not in text
    assert "inferenceflow" in text


def test_a_table_is_printed_without_json() -> None:
    result = CliRunner().invoke(
        main,
        [
            str(TRACES / "AzureLLMInferenceTrace_code.csv"),
            *("--budget", "2", "--no-plot", "--mean-load", "4"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "reactive_tuned" in result.output
    assert "nothing to tune" in result.output


def test_a_file_that_is_no_trace_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("a,b\n")
    result = CliRunner().invoke(main, [str(path)])
    assert result.exit_code == 1
    assert result.output.startswith("Error:")


def test_the_command_hands_over_to_the_simulator(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("a,b\n")
    command = [sys.executable, "-m", "app.cli", "scaler", "simulate", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected the columns t_s and rate_rps" in done.stderr
