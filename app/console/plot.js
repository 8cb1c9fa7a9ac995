// SVG by hand: a bar of a job's time, bars by day, lines of the scaler.

const NS = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Parts of a whole, side by side: [{name, value, shade}]. */
export function split(parts, total) {
  const bar = svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" });
  const words = parts.map((part) => `${part.name} ${part.value} ms`).join(", ");
  bar.append(svg("title", {}, words));
  let x = 0;
  for (const part of parts) {
    const width = total > 0 ? (100 * part.value) / total : 0;
    bar.append(svg("rect", { x, y: 0, width, height: 10, class: `f-${part.shade}` }));
    x += width;
  }
  return bar;
}

/** One bar for each {label, value, text}. */
export function bars(points) {
  const top = Math.max(...points.map((point) => point.value), 1e-12);
  const step = 100 / points.length;
  const plot = svg("svg", { viewBox: "0 0 320 110", role: "img" });
  points.forEach((point, place) => {
    const height = (80 * point.value) / top;
    const x = 3.2 * step * place;
    const bar = svg("rect", { x: x + 2, y: 85 - height, width: 3.2 * step - 4, height, class: "f-provider" });
    bar.append(svg("title", {}, `${point.label}: ${point.text}`));
    plot.append(bar);
    if (place === 0 || place === points.length - 1) {
      plot.append(svg("text", { x: place ? 318 : 2, y: 102, "text-anchor": place ? "end" : "start" }, point.label));
    }
  });
  return plot;
}

/** Lines over time: `times` in seconds, `lines` as [{name, shade, values}], null where unknown. */
export function lines(times, series) {
  const [from, to] = [times[0], times[times.length - 1]];
  const known = series.flatMap((one) => one.values.filter((value) => value !== null));
  const top = Math.max(...known, 1e-9);
  const x = (time) => 40 + (550 * (time - from)) / Math.max(to - from, 1);
  const y = (value) => 140 - (120 * value) / top;
  const plot = svg("svg", { viewBox: "0 0 600 170", role: "img" });
  plot.append(svg("line", { x1: 40, x2: 590, y1: 140, y2: 140, class: "axis" }));
  plot.append(svg("text", { x: 36, y: 24, "text-anchor": "end" }, top.toPrecision(2)));
  plot.append(svg("text", { x: 36, y: 143, "text-anchor": "end" }, "0"));
  const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  plot.append(svg("text", { x: 40, y: 158 }, clock(from)));
  plot.append(svg("text", { x: 590, y: 158, "text-anchor": "end" }, clock(to)));
  for (const one of series) {
    const points = one.values.flatMap((value, place) => (value === null ? [] : [`${x(times[place])},${y(value)}`]));
    plot.append(svg("polyline", { points: points.join(" "), class: `line s-${one.shade}` }, svg("title", {}, one.name)));
  }
  return plot;
}
