"""One real run: its numbers in every metric, every panel and the console, held against the job
records.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from app.stack.embedded import free_port
from tasks.inference import Priority
from tasks.scaler_state import read_scaler
from tests.observe.conftest import read_samples
from tests.observe.prometheus import RULES, Prometheus
from tests.stack import ROOT, RealStack, eventually, real_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE = {"width": 360, "height": 1500, "deviceScaleFactor": 2, "mobile": True}
# Panels of what a good run does not have.
MAY_BE_EMPTY = {
    "Runs put off", "Errors", "Answers shared in flight", "Wrong semantic hits, as far as checked",
    "Least score by pool",
}  # fmt: skip


def decisions(stack: RealStack, lane: Priority) -> list[dict]:
    """What the scaler decided, newest first, since it knows of the worker."""
    state = read_scaler(stack.redis, log=200, prefix=stack.settings.key_prefix)
    return [one for one in state.get("log", {}).get(lane, []) if one["replicas"]["ready"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealStack, list[dict]]]:
    """The stack after forty jobs, and the jobs as the API gives them."""
    port = free_port()
    folder = tmp_path_factory.mktemp("observe")
    with real_stack(folder, "--latency", "0.05", workers=0, SCALER_INTERVAL="2") as stack:
        stack.start_scaler()
        stack.env["PROMETHEUS_PORT"] = str(port)
        stack.start_worker("worker1")
        stack.metrics_port = port  # type: ignore[attr-defined]
        session = stack.session()

        catalogue = session.get(f"{stack.url}/v1/models", timeout=10).json()["data"]
        local = next(one["id"] for one in catalogue if one["owned_by"] == "local")

        def ask(number: int) -> str:
            body = {
                "prompt": f"What is the capital of country {number % 25}?",
                "priority": ("high", "normal", "low")[number % 3],
                "stream": number % 5 == 0,
                "max_tokens": 20,
                "temperature": 0,
                "model_preference": local,
            }
            answer = session.post(f"{stack.url}/v1/inference?wait=60", json=body, timeout=90)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["id"])

        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(ask, range(25)))
        ids += [ask(number) for number in range(25, 40)]
        eventually(
            lambda: all(len(decisions(stack, lane)) >= 12 for lane in Priority),
            seconds=90,
            what="the scaler's ticks",
        )
        jobs = [session.get(f"{stack.url}/v1/jobs/{one}", timeout=10).json() for one in ids]
        yield stack, jobs


def worker_samples(stack: RealStack) -> dict:
    port = stack.metrics_port  # type: ignore[attr-defined]
    samples = Counter(
        read_samples(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text)
    )
    samples.update(read_samples(requests.get(f"{stack.url}/v1/metrics", timeout=10).text))
    return samples


def test_the_numbers_are_those_of_the_job_records(run: tuple[RealStack, list[dict]]) -> None:
    stack, jobs = run
    hits = [job for job in jobs if job["result"]["cache_hit"]]
    assert len(jobs) == 40
    assert len(hits) >= 10

    def all_counted() -> bool:
        windows = stack.session().get(f"{stack.url}/v1/stats", timeout=10).json()["windows"]
        return windows["5m"]["ended"] == {"succeeded": 40}

    eventually(all_counted, seconds=15, what="40 ended jobs in /v1/stats")
    samples = worker_samples(stack)
    by_provider = Counter(
        "cache" if job["result"]["cache_hit"] else job["result"]["provider"] for job in jobs
    )
    for provider, count in by_provider.items():
        name = "inferenceflow_request_duration_seconds_count"
        assert samples[name, (("provider", provider),)] == count
    summed = Counter[str]()
    for (name, labels), amount in samples.items():
        if name == "inferenceflow_tokens_total":
            summed[dict(labels)["kind"]] += amount
        if name == "inferenceflow_queue_wait_seconds_count":
            summed["waits"] += amount
    assert summed["output"] == sum(job["result"]["usage"]["output_tokens"] for job in jobs)
    assert summed["waits"] >= 25  # repeats are answered by the API and never queued
    total = {
        labels: amount
        for (name, labels), amount in read_samples(
            requests.get(f"{stack.url}/v1/metrics", timeout=10).text
        ).items()
        if name == "inferenceflow_jobs_ended_total" and amount
    }
    lanes = Counter(job["priority"] for job in jobs)
    assert total == {
        (("priority", lane), ("state", "succeeded")): count for lane, count in lanes.items()
    }
    mine = stack.session().get(f"{stack.url}/v1/cache/stats", timeout=10).json()
    assert mine["hits"]["exact"] + mine["hits"]["semantic"] == len(
        [job for job in hits if job["result"]["cache"]["layer"] != "flight"]
    )


def test_the_summary_is_that_of_the_job_records(run: tuple[RealStack, list[dict]]) -> None:
    stack, jobs = run

    def windows() -> dict:
        return dict(stack.session().get(f"{stack.url}/v1/stats", timeout=10).json()["windows"])

    eventually(
        lambda: windows()["5m"]["ended"] == {"succeeded": 40}, seconds=15, what="40 jobs counted"
    )
    lanes = Counter(job["priority"] for job in jobs)
    queued = Counter(job["priority"] for job in jobs if job["started_at"])
    took = sorted(job["timing"]["total_ms"] / 1000 for job in jobs)
    hits = Counter(job["result"]["cache"]["layer"] for job in jobs if job["result"]["cache_hit"])
    for name, seconds in (("5m", 300), ("1h", 3_600), ("24h", 86_400)):
        window = windows()[name]
        assert window["ended"] == {"succeeded": 40}
        assert window["throughput_per_second"] == round(40 / seconds, 4)
        assert window["throughput_per_second_by_priority"] == {
            lane: round(count / seconds, 4) for lane, count in lanes.items()
        }
        assert window["latency_seconds"]["count"] == 40
        for percentile, share in (("p50", 0.50), ("p95", 0.95), ("p99", 0.99)):
            # A record ends when it is written; the latency when its writer is told so.
            exact = took[math.ceil(share * 40) - 1]
            assert window["latency_seconds"][percentile] == pytest.approx(exact, rel=0.05, abs=0.1)
        assert {
            lane: wait["count"] for lane, wait in window["queue_wait_seconds"].items()
        } == queued
        assert (window["cache"]["exact"], window["cache"]["semantic"]) == (
            hits["exact"], hits["semantic"],
        )  # fmt: skip
        assert window["provider_errors"] == {}


def test_every_panel_shows_data(run: tuple[RealStack, list[dict]], tmp_path: Path) -> None:
    stack, _ = run
    targets = {
        "api": (stack.api_port, "/v1/metrics"),
        "worker": (stack.metrics_port, "/metrics"),  # type: ignore[attr-defined]
    }
    wanted = [
        (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
        for path in (ROOT / "monitoring/grafana/dashboards").glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]
    with Prometheus(tmp_path, targets, sorted(RULES.glob("*.yml"))) as prometheus:
        rows = prometheus.rows
        eventually(lambda: bool(rows('up{job="worker"} == 1')), seconds=60, what="a scrape")
        for title, expr in wanted:
            if title in MAY_BE_EMPTY:
                rows(expr)  # at least it is understood
                continue
            eventually(lambda expr=expr: bool(rows(expr)), seconds=60, what=f"{title}: {expr}")  # type: ignore[misc]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path}/profile", "--window-size=1280,1500"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def test_the_console(run: tuple[RealStack, list[dict]], browser: webdriver.Chrome) -> None:
    stack, jobs = run
    wait = WebDriverWait(browser, 30)
    browser.get(f"{stack.url}/console")
    browser.find_element(By.ID, "token").send_keys("nonsense")
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    wait.until(lambda b: "not valid" in b.find_element(By.ID, "refused").text)
    browser.find_element(By.ID, "token").send_keys(stack.token())
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    for panel in ("queues", "speed", "cache", "providers", "jobs", "scaler"):
        wait.until(lambda b, panel=panel: b.find_elements(By.CSS_SELECTOR, f"#{panel} > *"))
    shown = browser.find_elements(By.CSS_SELECTOR, "#jobs tr")[1:]
    assert [row.text.split()[0] for row in shown] == [
        job["id"][:12] for job in sorted(jobs, key=lambda j: (j["created_at"], j["id"]))[::-1][:20]
    ]
    # for each queue arriving, forecast and its upper quantile, and replicas three ways
    assert len(browser.find_elements(By.CSS_SELECTOR, "#scaler svg polyline")) == 18
    state = read_scaler(stack.redis, prefix=stack.settings.key_prefix)["queues"]
    rows = browser.find_elements(By.CSS_SELECTOR, "#scaler tr")[1:]
    assert [row.text.split()[0] for row in rows] == ["high", "low", "normal"] == sorted(state)
    assert {one["before"] for one in state.values()} == {1}  # the one worker serves them all
    assert "local" in browser.find_element(By.ID, "providers").text
    rate = browser.find_element(By.CSS_SELECTOR, "#cache .big").text
    mine = stack.session().get(f"{stack.url}/v1/cache/stats", timeout=10).json()
    assert rate == f"{100 * mine['hit_rate']:.1f} %"
    assert stack.token() not in browser.page_source
    errors = [e for e in browser.get_log("browser") if "Security Policy" in e["message"]]
    assert not errors
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    browser.save_screenshot(str(images / "console.png"))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    too_wide = browser.execute_script(
        "return [document.documentElement, "
        "...document.querySelectorAll('section > div:not(#scaler)')]"
        ".filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.id)"
    )
    assert too_wide == []  # what is cut off might be the column with the failures
    browser.save_screenshot(str(images / "console-phone.png"))
    browser.find_element(By.ID, "sign-out").click()
    assert not browser.find_elements(By.CSS_SELECTOR, "#jobs > *")
    assert browser.execute_script("return sessionStorage.length") == 0


def test_the_page_is_guarded(run: tuple[RealStack, list[dict]]) -> None:
    stack, _ = run
    page = requests.get(f"{stack.url}/console", timeout=10)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"]
    for path in ("/v1/queues", "/v1/stats", "/v1/providers", "/v1/scaler", "/v1/cache/stats"):
        assert requests.get(f"{stack.url}{path}", timeout=10).status_code == 401
