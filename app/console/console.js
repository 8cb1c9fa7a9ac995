// The console asks the public API with the token of whoever looks, and shows what it answers.
// All text from the API is put in as text, never as HTML.

import { bars, lines, split } from "/console/plot.js";

const EVERY_MS = 2000;
const KEY = "inferenceflow-token";
const at = (id) => document.getElementById(id);
const missing = new Set(); // paths that this server does not have
let timer = null;

class SignedOut extends Error {}

/** The JSON at a path; null where the server has no such path or may not show it. */
async function ask(path) {
  const route = path.split("?")[0];
  if (missing.has(route)) return null;
  const answer = await fetch(path, { headers: { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } });
  if (answer.status === 401) throw new SignedOut((await answer.json()).detail);
  if (answer.status === 404 || answer.status === 403) missing.add(route);
  return answer.ok ? answer.json() : null;
}

function el(name, content, className) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(content instanceof Node ? content : String(content));
  return node;
}

/** A table; a cell is text, a node, or {text, shade}; columns that begin with # are numbers. */
function table(heads, rows) {
  const number = heads.map((head) => head.startsWith("#"));
  const cell = (tag, content, place) => {
    const styled = content !== null && typeof content === "object" && !(content instanceof Node);
    const shade = styled ? content.shade : "";
    return el(tag, styled ? content.text : content, `${number[place] ? "n" : ""} ${shade}`.trim());
  };
  const row = (tag, cells) => {
    const line = document.createElement("tr");
    line.append(...cells.map((content, place) => cell(tag, content, place)));
    return line;
  };
  const node = document.createElement("table");
  node.append(row("th", heads.map((head) => head.replace("#", ""))), ...rows.map((cells) => row("td", cells)));
  return node;
}

function show(id, ...nodes) {
  at(id).replaceChildren(...nodes);
  at(id).closest("section").hidden = nodes.length === 0;
}

const seconds = (value) =>
  value === null || value === undefined ? "–" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
const dollars = (value) => `$${Number(value).toFixed(Number(value) < 1 ? 4 : 2)}`;

function queues(data) {
  show("queues", table(
    ["Priority", "#waiting", "#running", "#oldest"],
    Object.entries(data).map(([name, one]) => [
      name, one.ready, one.running, { text: seconds(one.oldest_seconds), shade: one.oldest_seconds > 60 ? "warn" : "" },
    ]),
  ));
}

function speed(data) {
  const rows = Object.entries(data.windows).map(([name, one]) => [
    name, Object.values(one.ended).reduce((sum, count) => sum + count, 0),
    seconds(one.latency_seconds.p50), seconds(one.latency_seconds.p95), seconds(one.latency_seconds.p99),
    { text: one.ended.failed ?? 0, shade: one.ended.failed ? "bad" : "" },
  ]);
  show("speed", table(["", "#jobs", "#P50", "#P95", "#P99", "#failed"], rows));
}

function cache(mine, all) {
  const day = all.windows["1h"].cache;
  show("cache",
    el("div", percent(mine.lookups ? mine.hit_rate : null), "big"),
    el("p", `of your ${mine.lookups} requests answered from the cache: ${mine.hits.exact} exact, ${mine.hits.semantic} alike`, "note"),
    el("p", `saved ${dollars(mine.saved_cost)} and ${seconds(mine.saved_seconds)}; all tenants in the last hour: ${percent(day.hit_rate)}`, "note"));
}

function providers(data) {
  const worst = (circuits) =>
    circuits.some((one) => one.state === "open") ? { text: "open", shade: "bad" }
      : circuits.some((one) => one.state === "half_open") ? { text: "half open", shade: "warn" }
        : circuits.length ? { text: "closed", shade: "good" } : "not used";
  show("providers", table(
    ["Provider", "circuit", "#answers", "#P95", "#errors"],
    data.data.map((one) => {
      const errors = Object.values(one.errors).reduce((sum, count) => sum + count, 0);
      return [one.name, worst(one.circuits), one.latency_seconds.count, seconds(one.latency_seconds.p95),
        { text: errors, shade: errors ? "bad" : "" }];
    }),
  ));
}

function spend(data) {
  if (!data?.data?.length) return show("spend");
  const points = data.data.map((one) => {
    return { label: one.group.day, value: one.cost, text: dollars(one.cost) };
  });
  show("spend", el("div", dollars(data.total.cost), "big"), el("p", "since the first of this month", "note"), bars(points));
}

function batches(data) {
  const shown = data?.data ?? [];
  if (!shown.length) return show("batches");
  show("batches", table(["Batch", "state", "#ended", "#of", "#failed"], shown.map(({ id, state, counts }) => [
    id.slice(0, 14), state, counts.total - counts.open, counts.total, { text: counts.failed, shade: counts.failed ? "bad" : "" },
  ])));
}

function scaler(data) {
  const names = Object.keys(data?.queues ?? {});
  if (!names.length) return show("scaler");
  const nodes = [];
  nodes.push(el("p", `Mode: ${data.queues[names[0]].mode}`, "note"));
  if (data.paused) nodes.push(el("p", `Paused by ${data.paused.by}: ${data.paused.reason}`, "warn"));
  nodes.push(table(["Queue", "trust", "#replicas", "#wanted", "reason"], names.map((name) => {
    const one = data.queues[name];
    return [name, one.level, one.before ?? "–", one.after ?? "–", one.reason];
  })));
  for (const name of names) {
    const log = (data.log?.[name] ?? []).filter((one) => one.forecast).reverse();
    if (log.length < 2) continue;
    const of = (key) => log.map((one) => one.forecast[key] ?? null);
    const plot = document.createElement("figure");
    plot.append(el("figcaption", `${name}: work arriving (solid), forecast (blue), its upper quantile (dashed)`, "note"), lines(log.map((one) => one.at), [
      { name: "arriving", shade: "actual", values: of("actual") },
      { name: "forecast", shade: "p50", values: of("p50") },
      { name: "upper quantile", shade: "upper", values: of("upper") },
    ]));
    const count = (pick) => log.map((one) => pick(one) ?? null);
    const replicas = document.createElement("figure");
    replicas.append(el("figcaption", `${name}: replicas ready (solid), wanted (blue), asked for (dashed)`, "note"), lines(log.map((one) => one.at), [
      { name: "asked for", shade: "upper", values: count((one) => one.before) },
      { name: "wanted", shade: "p50", values: count((one) => one.after) },
      { name: "ready", shade: "actual", values: count((one) => one.replicas?.ready) },
    ]));
    nodes.push(plot, replicas);
  }
  show("scaler", ...nodes);
}

function jobs(data) {
  const shade = { succeeded: "good", failed: "bad", expired: "bad", cancelled: "warn" };
  show("jobs", table(
    ["Job", "priority", "state", "answered by", "queued, cache, provider", "#total"],
    data.data.map((one) => {
      const { queued_ms: queued, cache_ms: cached, provider_ms: provider, total_ms: total } = one.timing;
      const parts = [
        { name: "queued", value: queued, shade: "queued" },
        { name: "cache", value: cached, shade: "cache" },
        { name: "provider", value: provider, shade: "provider" },
      ];
      const by = one.result ? (one.result.cache_hit ? "cache" : `${one.result.provider}/${one.result.model}`) : one.error?.type ?? "";
      return [one.id.slice(0, 12), one.priority, { text: one.state, shade: shade[one.state] ?? "" }, by,
        split(parts, Math.max(total ?? 0, queued + cached + provider)), total === null ? "" : seconds(total / 1000)];
    }),
  ));
}

async function refresh() {
  try {
    const [waiting, numbers, mine, who, list, spent, batch, scaled] = await Promise.all([
      ask("/v1/queues"), ask("/v1/stats"), ask("/v1/cache/stats"), ask("/v1/providers"),
      ask("/v1/jobs?limit=20"), ask("/v1/usage?by=day"), ask("/v1/batch?limit=10"), ask("/v1/scaler?log=120"),
    ]);
    if (waiting) queues(waiting);
    if (numbers) speed(numbers);
    if (mine && numbers) cache(mine, numbers);
    if (who) providers(who);
    if (list) jobs(list);
    spend(spent);
    batches(batch);
    scaler(scaled);
    at("status").className = waiting ? "" : "bad";
    at("status").textContent = waiting ? `as of ${new Date().toLocaleTimeString()}` : "The API cannot read its queues.";
  } catch (error) {
    if (error instanceof SignedOut) return signOut(error.message);
    at("status").className = "bad";
    at("status").textContent = "The API does not answer.";
  }
  timer = setTimeout(refresh, document.hidden ? 5 * EVERY_MS : EVERY_MS);
}

function signOut(why) {
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  missing.clear();
  at("refused").textContent = why;
  at("status").textContent = "";
  at("panels").hidden = at("sign-out").hidden = true;
  at("sign-in").hidden = false;
  for (const panel of at("panels").querySelectorAll("section > div")) panel.replaceChildren();
  at("token").focus();
}

function signIn() {
  at("sign-in").hidden = true;
  at("panels").hidden = at("sign-out").hidden = false;
  refresh();
}

at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("token").value.trim());
  at("token").value = "";
  at("refused").textContent = "";
  signIn();
});
at("sign-out").addEventListener("click", () => signOut(""));
if (sessionStorage.getItem(KEY)) signIn();
else signOut("");
