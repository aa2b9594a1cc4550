// The status page: polls v1/state and draws it. Text from the process is set as text and never as HTML.
"use strict";

const POLL_MS = 2000;
// Five minutes.
const SAMPLES = 150;
// More rows of a table are a number.
const ROWS = 500;
const DAY = 86400;

const byId = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Sets text only where it has changed, so that a selection stays.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// --- numbers and times

function count(value) {
  return value.toLocaleString("en", { maximumFractionDigits: 0 });
}

function rate(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toLocaleString("en", { maximumFractionDigits: unit > 0 && value < 10 ? 1 : 0 })} ${units[unit]}`;
}

function span(seconds) {
  if (seconds >= 2 * DAY) return `${Math.floor(seconds / DAY)} days`;
  if (seconds >= 7200) return `${Math.floor(seconds / 3600)} h`;
  if (seconds >= 120) return `${Math.floor(seconds / 60)} min`;
  return `${Math.max(0, Math.floor(seconds))} s`;
}

function date(seconds) {
  return new Date(seconds * 1000).toISOString().replace("T", " ").replace(/:\d\d\.\d+Z$/, " UTC");
}

// --- plots

// Each plot: its title, its series as [name, value of two states and the time between them], how a value is
// written, and a remark on the last state.
const grown = (path) => (now, before, seconds) => Math.max(0, (path(now) - path(before)) / seconds);
const handshakesOf = (kind) => (state) => state.handshakes[`tls12_${kind}`] + state.handshakes[`tls13_${kind}`];
const perSecond = (value) => `${rate(value)}/s`;
const bytesPerSecond = (value) => `${bytes(value)}/s`;

const PLOTS = [
  {
    title: "Connections open",
    series: [["", (now) => now.connections.open]],
    write: count,
    remark: (state) => `${count(state.connections.unfinished_handshakes)} in a handshake`,
  },
  {
    title: "New connections",
    series: [["", grown((state) => state.connections.accepted)]],
    write: perSecond,
    remark: (state) => `${count(state.connections.accepted)} since the start`,
  },
  {
    title: "Handshakes",
    series: [["full", grown(handshakesOf("full"))], ["resumed", grown(handshakesOf("resumed"))]],
    write: perSecond,
    remark: (state) => {
      const [full, resumed] = ["full", "resumed"].map((kind) => handshakesOf(kind)(state));
      const share = full + resumed > 0 ? Math.round((100 * resumed) / (full + resumed)) : 0;
      return `${count(full + resumed)} since the start, ${share} % resumed`;
    },
  },
  {
    title: "Plaintext",
    series: [
      ["from clients", grown((state) => state.bytes.from_clients)],
      ["from backends", grown((state) => state.bytes.from_backends)],
    ],
    write: bytesPerSecond,
    remark: (state) => `${bytes(state.bytes.from_clients)} and ${bytes(state.bytes.from_backends)} since the start`,
  },
  {
    title: "Faults",
    series: [["", grown((state) => state.connections.faulted)]],
    write: perSecond,
    remark: (state) => `${count(state.connections.faulted)} since the start`,
  },
  {
    title: "Memory",
    series: [["", (now) => now.memory.resident_bytes ?? 0]],
    write: bytes,
    remark: (state) => `${bytes(state.memory.buffer_bytes)} of it buffers`,
  },
];

function makePlots() {
  for (const plot of PLOTS) {
    plot.values = plot.series.map(() => []);
    plot.numbers = plot.series.map((_, nth) => make("span", plot.series.length > 1 ? { class: `name-${nth}` } : {}));
    plot.lines = plot.series.map((_, nth) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      line.setAttribute("class", `series-${nth}`);
      return line;
    });
    plot.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    plot.svg.setAttribute("viewBox", `0 0 ${SAMPLES - 1} 100`);
    plot.svg.setAttribute("preserveAspectRatio", "none");
    plot.svg.setAttribute("role", "img");
    plot.svg.append(...plot.lines);
    plot.small = make("small", {});
    plot.caption = make("figcaption", {}, plot.title);
    byId("plots").append(make("figure", {}, plot.caption, make("p", {}, ...plot.numbers), plot.svg, plot.small));
  }
}

function drawPlots(state, before, seconds) {
  for (const plot of PLOTS) {
    setText(plot.small, plot.remark(state));
    const isLevel = plot.series[0][1].length < 2;
    if (!before && !isLevel) {
      plot.numbers.forEach((number, nth) => setText(number, `${plot.series[nth][0]} …`.trim()));
      continue;
    }
    plot.series.forEach(([name, value], nth) => {
      const values = plot.values[nth];
      values.push(value(state, before, seconds));
      if (values.length > SAMPLES) values.shift();
      setText(plot.numbers[nth], `${name} ${plot.write(values[values.length - 1])}`.trim());
    });
    const most = Math.max(...plot.values.flat());
    plot.values.forEach((values, nth) => {
      const points = values.map((value, at) => {
        const x = SAMPLES - values.length + at;
        return `${x},${(97 - (most > 0 ? (94 * value) / most : 0)).toFixed(1)}`;
      });
      // A single sample is a short line at the right edge.
      if (points.length === 1) points.unshift(points[0].replace(/^\d+/, String(SAMPLES - 2)));
      plot.lines[nth].setAttribute("points", points.join(" "));
    });
    const now = plot.numbers.map((number) => number.textContent).join(", ");
    plot.svg.setAttribute("aria-label", `${plot.title}: now ${now}; highest ${plot.write(most)}`);
    setText(plot.caption, `${plot.title} (highest ${plot.write(most)})`);
  }
}

// --- tables

// A cell is a text, or an object with text, a class, and whether backquotes in it mark code.
const asCell = (cell) => (typeof cell === "object" ? cell : { text: cell });

function fill(td, cell) {
  const key = JSON.stringify(cell);
  if (td.dataset.key === key) return;
  td.dataset.key = key;
  if (!cell.code) {
    td.textContent = cell.text;
    return;
  }
  const parts = cell.text.split("`").map((part, nth) => (nth % 2 ? make("code", {}, part) : part));
  td.replaceChildren(...parts);
}

// Columns are [heading, class]. Rows are changed in place.
function table(place, label, columns, rows, empty, caption) {
  const box = byId(place);
  if (rows.length === 0) {
    if (!box.querySelector("p.empty")) box.replaceChildren(make("p", { class: "empty" }, empty));
    return;
  }
  let body = box.querySelector("tbody");
  if (!body) {
    const headings = columns.map(([name, kind]) => make("th", { scope: "col", class: kind ?? "" }, name));
    body = make("tbody", {});
    const parts = [make("thead", {}, make("tr", {}, ...headings)), body];
    if (caption) parts.unshift(make("caption", {}, ""));
    const region = { class: "scroll", role: "region", tabindex: "0", "aria-label": label };
    box.replaceChildren(make("div", region, make("table", {}, ...parts)));
  }
  if (caption) setText(box.querySelector("caption"), caption);
  const shown = rows.slice(0, ROWS);
  if (rows.length > ROWS) {
    const more = `and ${count(rows.length - ROWS)} more: see /v1/state`;
    shown.push([more, ...columns.slice(1).map(() => "")]);
  }
  while (body.rows.length > shown.length) body.deleteRow(-1);
  shown.forEach((row, at) => {
    const tr = body.rows[at] ?? body.insertRow();
    row.forEach((value, nth) => {
      const cell = asCell(value);
      const td = tr.cells[nth] ?? tr.insertCell();
      td.className = [columns[nth][1], cell.kind].filter(Boolean).join(" ");
      fill(td, cell);
    });
  });
}

const path = (one) => ({ text: `${one.path}: ${one.detail}` });

function showListeners(state) {
  const rows = state.listeners.map((one) => {
    const more = [
      one.client_auth && one.client_auth !== "none" ? `client certificates: ${one.client_auth}` : "",
      one.alpn.length ? `ALPN ${one.alpn.join(", ")}` : "",
      one.accept_proxy ? "PROXY headers expected" : "",
      one.client_auth !== null && !one.tickets ? "no tickets" : "",
    ];
    return [one.address, one.mode, count(one.connections), one.pools.join(", "), path(one.tx), path(one.rx),
      more.filter(Boolean).join("; ") || "–"];
  });
  const columns = [["Address", "keep"], ["Mode", "keep"], ["Connections", "number"], ["Pools", "name"], ["Records sent", "wide"],
    ["Records received", "wide"], ["Policy", "name"]];
  table("listeners", "Listeners", columns, rows, "There is no listener.");
}

function showPools(state) {
  const kinds = { up: "good", down: "bad", paused: "warn" };
  const rows = state.pools.flatMap((pool) => {
    if (pool.endpoints.length === 0) {
      return [[pool.name, { text: "no address is known", kind: "bad" }, "", "", "", "", ""]];
    }
    return pool.endpoints.map((one) => {
      const since = one.since === null ? "" : ` for ${span(state.time - one.since)}`;
      const probe = one.last_probe;
      const ago = probe && `${span(state.time - probe.at)} ago`;
      const found = probe === null
        ? (pool.health_check === "off" ? "not probed" : "none yet")
        : (probe.problem === null ? { text: `good, ${ago}` } : { text: `${probe.problem}, ${ago}`, kind: "bad" });
      const most = one.max_connections === null ? "" : ` of ${count(one.max_connections)}`;
      return [
        pool.name,
        `${one.address}${one.backup ? " (backup)" : ""}`,
        { text: `${one.state}${since}${one.reason ? `: ${one.reason}` : ""}`, kind: kinds[one.state] },
        `${count(one.connections)}${most}`,
        count(one.weight),
        found,
        pool.balance,
      ];
    });
  });
  const columns = [["Pool", "name"], ["Endpoint", "keep"], ["State", "wide"], ["Connections", "number"], ["Weight", "number"],
    ["Last probe", "name"], ["Balance", "keep"]];
  table("pools", "Pools and their endpoints", columns, rows, "There is no pool.");
}

function showFaults(state) {
  const kinds = { warn: "warn", error: "bad" };
  const faults = [...state.faults].sort((one, other) => other.count - one.count);
  const rows = faults.map((one) => [
    { text: one.fault, kind: kinds[one.level] },
    count(one.count),
    { text: one.meaning, code: true },
    { text: one.remedy, code: true },
  ]);
  const columns = [["Fault", "keep"], ["Count", "number"], ["Meaning", "wide"], ["What to do", "wide"]];
  table("faults", "Faults", columns, rows, "None since the start.");
}

function daysLeft(seconds) {
  const days = Math.floor(seconds / DAY);
  if (seconds < 0) return { text: "expired", kind: "bad" };
  return { text: count(days), kind: days < 7 ? "bad" : days < 30 ? "warn" : "good" };
}

function showCertificates(state) {
  const sorted = [...state.certificates].sort((one, other) => one.not_after - other.not_after);
  const rows = sorted.map((one) => [
    one.names.join(", ") || "–",
    daysLeft(one.not_after - state.time),
    date(one.not_after),
    one.nth > 1 ? `${one.file} (${one.nth})` : one.file,
  ]);
  const columns = [["Names", "wide"], ["Days left", "number"], ["Valid until", "keep"], ["File", "wide"]];
  table("certificates", "Certificates", columns, rows, "There is no certificate: no leg has TLS of this process.");
}

function showKeys(state) {
  const { file, keys } = state.ticket_keys;
  setText(byId("keys-source"), file ? `From ${file}.` : "Of this process alone: tickets end with it.");
  const meaning = { seals: "seals and opens", opens: "opens", waits: "opens, will seal", expired: "expired" };
  const rows = keys.map((one) => [
    { text: one.id },
    { text: meaning[one.state] ?? one.state, kind: one.state === "seals" ? "good" : "" },
    one.seals_from <= state.time ? `${span(state.time - one.seals_from)} ago` : `in ${span(one.seals_from - state.time)}`,
    date(one.opens_until),
  ]);
  const columns = [["Name", "keep"], ["State", "keep"], ["Seals since", "keep"], ["Valid until", "keep"]];
  table("keys", "Ticket keys", columns, rows, "There is no ticket key: every handshake is a full one.");
}

function showLimits(state) {
  const shown = state.limits.filter((one) => one.value !== null || one.reached > 0);
  const rows = shown.map((one) => [
    one.limit,
    one.value === null ? "no limit" : one.limit === "limits.buffer_memory" ? bytes(one.value) : count(one.value),
    { text: count(one.reached), kind: one.reached > 0 ? "warn" : "" },
  ]);
  table("limits", "Limits", [["Limit", "keep"], ["Value", "number"], ["Times reached", "number"]], rows, "No limit is set.");
}

function showWorkers(state) {
  const { resident_bytes: resident, buffer_bytes: buffers, buffers_lent: lent } = state.memory;
  const memory = resident === null ? "" : `Resident memory ${bytes(resident)}. `;
  const lost = state.log.lines_dropped + state.log.write_errors;
  const log = lost > 0 ? ` The log has lost ${count(state.log.lines_dropped)} lines.` : "";
  setText(byId("memory"), `${memory}Buffers ${bytes(buffers)}, ${count(lent)} in use.${log}`);
  const rows = state.workers.map((one) => [
    String(one.worker),
    count(one.connections),
    one.full ? { text: "no free slot", kind: "warn" } : { text: "has free slots" },
    one.stalled_seconds >= 5 ? { text: `stuck for ${one.stalled_seconds} s`, kind: "bad" } : { text: "responds", kind: "good" },
  ]);
  table("workers", "Workers", [["Worker", "keep"], ["Connections", "number"], ["Room"], ["Event loop"]], rows, "");
}

function showKernel(state) {
  const rows = state.record_paths.map((one) => [
    one.direction === "tx" ? "sent" : "received",
    count(one.kernel),
    count(one.userspace),
    { text: count(one.fallback), kind: one.fallback > 0 ? "warn" : "" },
  ]);
  const columns = [["Records", "keep"], ["Kernel", "number"], ["Userspace", "number"], ["Refused by the kernel", "number"]];
  table("paths", "Record paths", columns, rows, "");
  const counters = Object.entries(state.kernel_tls).map(([name, value]) => [name, count(value)]);
  const none = "The kernel counts nothing: it has no kernel TLS, or the module is not loaded.";
  table("kernel", "Counters of kernel TLS", [["Counter", "keep"], ["Value", "number"]], counters, none);
}

function showProcess(state) {
  const started = date(state.started);
  setText(byId("process"), `${state.version}, process ${state.pid}, up for ${span(state.uptime_seconds)} since ${started}`);
  const badges = [state.draining ? ["draining", "warn"] : ["serving", "good"]];
  badges.push(state.offload_allowed ? ["offload allowed", "good"] : ["offload off", "warn"]);
  const layers = state.confinement;
  if (layers.length === 0) badges.push(["not confined", "warn"]);
  else if (layers.every((layer) => layer.in_force || layer.name === "user")) badges.push(["confined", "good"]);
  else badges.push([`without ${layers.filter((layer) => !layer.in_force).map((layer) => layer.name).join(", ")}`, "warn"]);
  if (state.key_log) badges.push(["key log", "bad"]);
  if (state.workers.some((one) => one.full)) badges.push(["full", "warn"]);
  byId("badges").replaceChildren(...badges.map(([text, kind]) => make("li", { class: kind }, text)));
}

function showAlerts(state, failure) {
  const alerts = [];
  if (failure) alerts.push([failure, "bad"]);
  if (state?.key_log) {
    alerts.push([`The secrets of every connection are written to ${state.key_log}: whoever reads that file can read the traffic.`, "bad"]);
  }
  for (const line of state?.warnings ?? []) alerts.push([line, ""]);
  const key = JSON.stringify(alerts);
  const box = byId("alerts");
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...alerts.map(([text, kind]) => make("p", { class: `note ${kind}` }, text)));
}

// --- polling

let last = null;
let lastAt = 0;

function show(state) {
  const now = performance.now();
  // Another process begins from zero.
  const isSame = last !== null && last.pid === state.pid && last.started === state.started;
  if (last !== null && !isSame) for (const plot of PLOTS) plot.values = plot.series.map(() => []);
  drawPlots(state, isSame ? last : null, (now - lastAt) / 1000);
  last = state;
  lastAt = now;
  showProcess(state);
  showListeners(state);
  showPools(state);
  showFaults(state);
  showCertificates(state);
  showKeys(state);
  showLimits(state);
  showWorkers(state);
  showKernel(state);
  showAlerts(state, null);
}

async function poll() {
  try {
    const answer = await fetch("v1/state", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    showAlerts(last, `No answer from Offramp (${error.message}); the values below are old.`);
  }
  setTimeout(poll, POLL_MS);
}

makePlots();
poll();
