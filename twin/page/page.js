"use strict";
// Parts come whole from the server and are merged into the page; what is plotted comes second by second.

const byId = (id) => document.getElementById(id);
document.documentElement.classList.add("scripted");

function ago(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 100) return `${Math.round(seconds)} s ago`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

function tick(root) {
  const now = Date.now() / 1000;
  for (const time of root.querySelectorAll("time[data-at]")) {
    const text = ago(now - Number(time.dataset.at));
    if (time.textContent !== text) time.textContent = text;
  }
}

// Lists that the reader opened or closed: they stay so. The server opens one where something goes on, and closes none.
const chosen = new Set();
document.addEventListener("click", (event) => {
  const list = event.target.closest("summary")?.parentElement;
  if (list) chosen.add(list.id);
});

const kept = {
  beforeAttributeUpdated: (name, node, change) =>
    !(name === "open" && node.tagName === "DETAILS" && (change === "remove" || chosen.has(node.id))),
  beforeNodeMorphed: (before, after) => {
    if (before.tagName === "TIME" && after.tagName === "TIME" && before.dataset.at === after.dataset.at) return false;
    return !before.isEqualNode?.(after);
  },
};

function take(name, html) {
  const places = { targets: ["ask-targets", "fault-device"], logs: ["log-name"] }[name] || [name];
  for (const place of places.map(byId).filter(Boolean)) {
    const chosen = place.closest("select")?.value;
    Idiomorph.morph(place, html, { morphStyle: "innerHTML", callbacks: kept });
    const select = place.closest("select");
    if (select && [...select.options].some((option) => option.value === chosen)) select.value = chosen;
    tick(place);
  }
}

// A part at a time, and of each the newest: what came while the page was busy must not be one long task.
const waiting = new Map();

function takeSoon(name, html) {
  if (!waiting.size) setTimeout(takeNext);
  waiting.set(name, html);
}

function takeNext() {
  const [name, html] = waiting.entries().next().value;
  waiting.delete(name);
  if (waiting.size) setTimeout(takeNext);
  take(name, html);
}

// ---- plots

const KEEP_S = 900;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const SERIES = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6"];

function plots(box) {
  const models = JSON.parse(box.dataset.models).slice(0, SERIES.length);
  const rows = [];
  const rounded = (value) => (value === null || value === undefined ? "–" : String(Math.round(value * 1000) / 1000));
  const kinds = [
    { title: "Answers a second", names: models, pick: (row, place) => row[5 + 2 * place], gap: 0 },
    { title: "Latency on the device, ms", names: ["p50", "p95", "p99"], pick: (row, place) => row[1 + place], gap: null },
    { title: "Confidence, mean probability of the best label", names: models, pick: (row, place) => row[6 + 2 * place], gap: null, range: [0, 1] },
  ];
  let drawn = [];
  let asked = 0;
  let begun = 0;

  function make() {
    drawn.forEach((each) => each.plot.destroy());
    box.replaceChildren();
    drawn = kinds.map((kind) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = kind.title;
      figure.append(caption);
      box.append(figure);
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      const options = {
        width: box.clientWidth, height: 130, cursor: { drag: { x: false, y: false } }, legend: { live: true },
        scales: { x: { time: true, range: (_plot, low, high) => [low, high] }, y: kind.range ? { range: kind.range } : { range: (_plot, _low, high) => [0, Math.max(high || 0, 1e-3) * 1.1] } },
        axes: [{ ...axis, values: (_plot, times) => times.map((at) => new Date(at * 1000).toLocaleTimeString("en-GB")), space: 90, size: 26 }, { ...axis, size: 44 }],
        series: [{ label: "time", value: () => "" }, ...kind.names.map((name, place) => ({
          label: name, stroke: colour(SERIES[place]), width: 2, spanGaps: true, dash: [[], [6, 3], [2, 2]][place % 3],
          points: { show: kind.gap === null, size: 5 }, value: (_plot, value) => rounded(value),
        }))],
      };
      return { kind, plot: new uPlot(options, [[], ...kind.names.map(() => [])], figure) };
    });
    draw(Math.floor(Date.now() / 1000));
  }

  function draw(now) {
    const at = [];
    begun = Math.min(begun || now, rows.length ? rows[0][0] : now);
    for (let second = Math.max(now - KEEP_S, Math.min(begun, now - 120)); second < now; second += 1) at.push(second);
    const places = new Map(rows.map((row) => [row[0], row]));
    for (const { kind, plot } of drawn) {
      const lines = kind.names.map((_name, place) => at.map((second) => {
        const row = places.get(second);
        return row ? kind.pick(row, place) : kind.gap;
      }));
      plot.setData([at, ...lines]);
    }
  }

  function add(now, points) {
    // A new connection begins with all of them again.
    const last = rows.length ? rows[rows.length - 1][0] : 0;
    rows.push(...points.filter((point) => point[0] > last));
    while (rows.length && rows[0][0] < now - KEEP_S) rows.shift();
    if (document.hidden) return;
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => draw(now));
  }

  make();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", make);
  new ResizeObserver(() => drawn.forEach((each) => each.plot.width !== box.clientWidth && each.plot.setSize({ width: box.clientWidth, height: 130 }))).observe(box);
  return add;
}

// ---- events

function follow() {
  const live = byId("live");
  const say = (text, kind) => { live.textContent = text; live.className = `badge js ${kind}`; };
  const add = plots(byId("plots"));
  function connect() {
    const events = new EventSource("events");
    events.onopen = () => say("live", "good");
    events.onerror = () => {
      // By itself it tries a broken connection again, but not one that was refused.
      if (events.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
      say("not connected, trying again", "bad");
    };
    events.addEventListener("part", (event) => {
      const { name, html } = JSON.parse(event.data);
      takeSoon(name, html);
    });
    events.addEventListener("points", (event) => {
      const { now, points } = JSON.parse(event.data);
      add(now, points);
    });
  }
  connect();
  setInterval(() => tick(document), 1000);
}

async function post(path, content) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
  const said = await answer.json().catch(() => ({ problem: `${answer.status} ${answer.statusText}` }));
  if (said.problem) throw new Error(said.problem);
  return said;
}

async function submitted(form, output, work) {
  const button = form.querySelector("button.main");
  button.disabled = true;
  output.textContent = "…";
  output.className = "";
  try {
    output.textContent = await work();
  } catch (problem) {
    output.textContent = problem.message;
    output.className = "problem";
  } finally {
    button.disabled = false;
  }
}

// ---- ask

function pad(canvas) {
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const side = canvas.width;
  let from = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * side) / box.width, ((event.clientY - box.top) * side) / box.height];
  };
  const clear = () => { pen.fillStyle = "#000"; pen.fillRect(0, 0, side, side); canvas.dataset.drawn = ""; };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = place(event);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = place(event);
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: side / 9, lineCap: "round", lineJoin: "round" });
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
    canvas.dataset.drawn = "1";
    from = to;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
  byId("clear").addEventListener("click", clear);
  clear();

  // The samples fill their picture: so does a drawing, wherever and however small it was drawn.
  return () => {
    if (!canvas.dataset.drawn) throw new Error("draw something first");
    const { data } = pen.getImageData(0, 0, side, side);
    let [left, top, right, bottom] = [side, side, 0, 0];
    for (let y = 0; y < side; y += 1) {
      for (let x = 0; x < side; x += 1) {
        if (data[4 * (y * side + x)] > 40) {
          [left, right] = [Math.min(left, x), Math.max(right, x)];
          [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
        }
      }
    }
    const longest = Math.max(right - left, bottom - top) + 1;
    const out = document.createElement("canvas");
    out.width = out.height = 64;
    const ink = out.getContext("2d");
    ink.fillRect(0, 0, 64, 64);
    ink.imageSmoothingQuality = "high";
    const [x, y] = [(left + right + 1 - longest) / 2, (top + bottom + 1 - longest) / 2];
    ink.drawImage(canvas, x, y, longest, longest, 0, 0, 64, 64);
    return out.toDataURL("image/png").split(",")[1];
  };
}

const asBase64 = (file) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1] || "");
  reader.onerror = () => fail(new Error("the file cannot be read"));
  reader.readAsDataURL(file);
});

function ask(form) {
  const drawn = pad(byId("pad"));
  const model = byId("ask-model");
  const chosen = () => form.elements.with.value;
  const show = () => form.querySelectorAll("[data-with]").forEach((each) => { each.hidden = each.dataset.with !== chosen(); });
  const fit = () => {
    const { takes, row } = model.selectedOptions[0].dataset;
    const options = [...form.elements.with];
    options.forEach((each) => { each.disabled = !takes.split(" ").includes(each.value); });
    if (options.find((each) => each.checked)?.disabled) options.find((each) => !each.disabled).checked = true;
    byId("ask-row").value = row;
    show();
  };
  form.addEventListener("change", (event) => (event.target === model ? fit() : show()));
  const drop = form.querySelector(".drop");
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("ask-picture").files = event.dataTransfer.files;
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submitted(form, byId("answer"), async () => {
      const asked = { model: model.value, device: byId("ask-device").value };
      const kind = chosen();
      if (kind === "draw") asked.image = drawn();
      else if (kind === "row") asked.features = byId("ask-row").value;
      else if (kind === "sample") asked.index = byId("ask-sample").valueAsNumber;
      else {
        const file = byId("ask-picture").files[0];
        if (!file) throw new Error("choose a picture first");
        if (file.size > 8e6) throw new Error(`a picture must have at most 8 MB, got ${(file.size / 1e6).toFixed(1)} MB`);
        asked.image = await asBase64(file);
      }
      const began = performance.now();
      const said = await post("ask", asked);
      if (said.error) throw new Error(`${said.device}: ${said.error.code}: ${said.error.message}`);
      const sure = said.top_k?.length ? ` (${said.top_k[0].probability.toFixed(3)})` : "";
      const took = `${said.latency_ms.toFixed(2)} ms on the device, ${Math.round(performance.now() - began)} ms there and back`;
      return `${said.device} says ${said.label ?? JSON.stringify(said.outputs)}${sure}; ${took}${said.note ? `. ${said.note}` : ""}`;
    });
  });
  fit();
}

function fault(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submitted(form, byId("done"), async () => (await post("fault", { device: byId("fault-device").value, fault: byId("fault-name").value })).said);
  });
}

// A log's page has only this to do.
function again(place) {
  const bottom = () => { const log = place.querySelector(".log"); if (log) log.scrollTop = log.scrollHeight; };
  bottom();
  setInterval(async () => {
    const answer = await fetch(location.href).catch(() => null);
    if (!answer?.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".log");
    const log = place.querySelector(".log");
    if (!fresh || fresh.textContent === log.textContent) return;
    const atEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 40;
    log.textContent = fresh.textContent;
    if (atEnd) bottom();
  }, 1000);
}

if (byId("plots")) follow();
if (byId("ask")) ask(byId("ask"));
if (byId("fault")) fault(byId("fault"));
if (byId("again")) again(byId("again"));
