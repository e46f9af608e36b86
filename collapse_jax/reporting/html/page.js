"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { charts, images, texts } = data;
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const one = (id) => document.getElementById(id);
  const THEME = "collapse-jax-theme", KEPT = "collapse-jax-" + location.pathname;
  const narrow = matchMedia("(max-width: 40rem), (pointer: coarse)").matches;
  const hidden = new Set();  // numbers of the legend's entries that are switched off
  let point = 0;

  // What a browser may refuse to keep (a file of a locked-down one) is not kept.
  const keep = (store, key, value) => { try { store.setItem(key, value); } catch { /* nothing is lost but comfort */ } };
  const kept = (store, key) => { try { return store.getItem(key); } catch { return null; } };

  const number = (x) => x === null || x === undefined ? "not known" : String(Number(x.toPrecision(3)));
  const finite = (x) => x !== null && x !== undefined;
  const entry = (curve) => charts.select ? curve.policy : charts.curves.indexOf(curve);
  const shownCurves = () => charts.curves.map((curve, i) => [curve, i])
    .filter(([curve]) => (!charts.select || curve.point === point) && !hidden.has(entry(curve)));
  const labelOf = (curve) => charts.select ? charts.policies[curve.policy] : curve.label;

  // Colours follow the page: the palette's black is invisible on a dark one.
  const ink = () => getComputedStyle(document.body).color;
  const colourOf = (curve) => curve.colour === "#000000" ? ink() : curve.colour;
  const clear = (colour, alpha) => {
    const parts = colour.startsWith("#") ? [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)) : colour.match(/\d+/g).slice(0, 3);
    return `rgba(${parts.join(",")},${alpha})`;
  };

  const layout = (more) => ({
    margin: { l: 52, r: 10, t: 8, b: 40 }, showlegend: false, dragmode: narrow ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink(), size: 11.5, family: "system-ui, sans-serif" },
    hovermode: "x unified", hoverlabel: { bgcolor: getComputedStyle(one("theme")).backgroundColor, font: { color: ink() } }, ...more,
  });
  const axis = (more) => ({ gridcolor: "rgba(128,128,128,0.22)", zeroline: false, automargin: true, fixedrange: narrow, exponentformat: "power", ...more });
  const draw = (element, traces, made) => Plotly.react(element, traces, made, { responsive: true, displayModeBar: false });

  // Plotly reads some HTML (<b>, <a href>) in what it draws; names of a run are drawn as they are.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

  const categories = (values) => ({ type: "category", categoryorder: "array", categoryarray: values.map(plain) });
  const logTicks = (values) => {  // where it spans less than two decades, plotly would name bare digits, or none
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (high / low < 3) return { nticks: 6 };
    return high / low < 100 ? { type: "log", nticks: 6, dtick: high / low < 8 ? "D1" : "D2", tickformat: ".3~g" } : { type: "log", nticks: 6, dtick: Math.max(1, Math.ceil(Math.log10(high / low) / 6)) };
  };

  function drawCurves(element) {
    const metric = charts.metrics[element.dataset.metric], x = charts.generations, traces = [], ends = [], lost = [];
    const lines = shownCurves().map(([curve, i]) => [curve, metric.curves[i]]);
    for (const [curve, line] of lines) {
      const colour = colourOf(curve), name = labelOf(curve), banded = line.low.map((low, g) => finite(low) && finite(line.high[g]));
      const quiet = { x, mode: "lines", hoverinfo: "skip", line: { width: 0 }, connectgaps: false };
      if (banded.some(Boolean)) {
        traces.push({ ...quiet, y: line.low }, { ...quiet, y: line.high, fill: "tonexty", fillcolor: clear(colour, 0.22) });
      }
      traces.push({ x, y: line.centre, name: plain(name), meta: "centre", mode: x.length === 1 ? "markers" : "lines", line: { color: colour, dash: curve.dash, width: 2 },
        marker: { color: colour, size: 9 }, hovertemplate: "%{y:.3~g}" });
      const last = line.centre.length - 1;
      ends.push(finite(line.centre[last]) ? `${name} ${number(line.centre[last])}` + (finite(line.low[last]) ? ` (${number(line.low[last])} to ${number(line.high[last])})` : "") : `${name} not known`);
      if (line.lost > 0) lost.push(`${name} ${line.lost} of ${charts.chains} chains`);
    }
    for (const [, line] of lines) {
      if (line.theory) traces.push({ x, y: line.theory, name: "exact mean", meta: "theory", mode: "lines", line: { color: ink(), dash: "3px,5px", width: 1.2 }, hovertemplate: "%{y:.3~g}" });
    }
    const values = lines.flatMap(([, line]) => line.centre).filter(finite);
    const log = metric.log && values.length && values.every((value) => value > 0);
    draw(element, traces, layout({
      xaxis: axis({ title: { text: "generation", standoff: 6 }, ticklabelstandoff: 4, type: charts.long ? "log" : "linear", ...(x.length < 9 && !charts.long ? { dtick: 1 } : {}) }),
      yaxis: axis(log ? logTicks(values) : { nticks: 6 }),
      annotations: values.length ? [] : [{ text: "no value yet", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }],
    }));
    element.setAttribute("aria-label", `${metric.title} by generation; at generation ${x[x.length - 1]}: ${ends.join(", ")}`);
    element.parentElement.querySelector(".lost").textContent = lost.length ? `Not finite, left out: ${lost.join(", ")}` : "";
  }

  function drawSweep() {
    const metric = charts.metrics[one("sweep-metric").value], g = Number(one("sweep-generation").value);
    const panels = one("sweep-panels"), axes = charts.axes, policies = charts.policies;
    const two = axes.length > 1;
    const wanted = two ? policies.length : 1;
    while (panels.children.length < wanted) {
      const figure = panels.appendChild(document.createElement("figure"));
      figure.innerHTML = '<figcaption></figcaption><div class="plot" role="img"></div>';
    }
    panels.classList.toggle("single", !two);
    all("figure", panels).forEach((figure, i) => (two ? drawHeat : drawAlong)(figure, metric, g, i));
  }

  function drawAlong(figure, metric, g) {
    const { values, numbers, name } = charts.axes[0], traces = [], words = [];
    charts.policies.forEach((policy, p) => {
      const here = charts.curves.map((curve, i) => [curve, metric.curves[i]]).filter(([curve]) => curve.policy === p);
      if (!here.length || (charts.select && hidden.has(p))) return;
      const y = here.map(([, line]) => line.centre[g]), colour = charts.policies.length > 1 ? colourOf(here[0][0]) : ink();
      words.push(`${policy} ${y.map(number).join(", ")}`);
      const error = (key, sign) => here.map(([, line], i) => finite(line[key][g]) && finite(y[i]) ? Math.max(0, sign * (line[key][g] - y[i])) : 0);
      traces.push({ x: numbers || values.map(plain), y, name: plain(policy), meta: "centre", mode: "lines+markers", line: { color: colour, width: 2 }, marker: { size: 7 },
        error_y: { array: error("high", 1), arrayminus: error("low", -1), color: clear(colour, 0.6), thickness: 1.2 }, hovertemplate: "%{y:.3~g}" });
    });
    const shown = traces.flatMap((trace) => trace.y).filter(finite);
    const spans = numbers && Math.min(...numbers) > 0 && Math.max(...numbers) / Math.min(...numbers) >= 20;
    figure.querySelector("figcaption").textContent = `${metric.title}, generation ${charts.generations[g]}`;
    const plot = figure.querySelector(".plot");
    draw(plot, traces, layout({ xaxis: axis({ title: { text: plain(name) }, ...(numbers ? { type: spans ? "log" : "linear" } : categories(values)) }),
      yaxis: axis(metric.log && shown.length && shown.every((y) => y > 0) ? logTicks(shown) : { nticks: 6 }) }));
    plot.setAttribute("aria-label", `${metric.title} against ${name} at generation ${charts.generations[g]}: ` + words.join("; "));
  }

  function drawHeat(figure, metric, g, policy) {
    const axes = charts.axes, rows = axes[axes.length - 2], columns = axes[axes.length - 1];
    const others = axes.slice(0, -2).reduce((all, a) => all * a.values.length, 1), size = rows.values.length * columns.values.length;
    const outer = charts.select ? Math.floor(point / size) : 0;
    const at = (i, j, p) => {
      const found = charts.curves.findIndex((c) => c.policy === p && c.point === outer * size + i * columns.values.length + j);
      return found < 0 ? null : metric.curves[found].centre[g];
    };
    const table = (p) => rows.values.map((_, i) => columns.values.map((_, j) => at(i, j, p)));
    const everywhere = charts.policies.flatMap((_, p) => table(p).flat()).filter(finite), z = table(policy);
    const log = metric.log && everywhere.length && everywhere.every((value) => value > 0);
    const scaled = (value) => !finite(value) ? null : log ? Math.log10(value) : value;
    const few = columns.values.length <= 8, plot = figure.querySelector(".plot");
    const ends = [Math.min(...everywhere), Math.max(...everywhere)];
    figure.querySelector("figcaption").textContent = `${charts.policies[policy]}, generation ${charts.generations[g]}` + (others > 1 ? `, ${axes.slice(0, -2).map((a, k) => `${a.name} = ${a.values[place(k)]}`).join(", ")}` : "");
    draw(plot, [{ type: "heatmap", x: columns.values.map(plain), y: rows.values.map(plain), z: z.map((row) => row.map(scaled)), text: z.map((row) => row.map((v) => finite(v) ? number(v) : "")),
      texttemplate: few ? "%{text}" : "", textfont: { size: 11 }, colorscale: "Viridis", zmin: scaled(ends[0]), zmax: scaled(ends[1]), xgap: 1, ygap: 1, hoverongaps: false,
      showscale: !few, colorbar: { thickness: 10, tickvals: ends.map(scaled), ticktext: ends.map(number) },
      hovertemplate: `${plain(columns.name)} %{x}<br>${plain(rows.name)} %{y}<br>%{text}<extra></extra>` }],
      layout({ hovermode: "closest", xaxis: axis({ title: { text: plain(columns.name) }, showgrid: false, ...categories(columns.values) }),
        yaxis: axis({ title: { text: plain(rows.name), standoff: 4 }, showgrid: false, ...categories(rows.values) }) }));
    plot.setAttribute("aria-label", `${metric.title} under ${charts.policies[policy]} by ${rows.name} and ${columns.name}: ` + rows.values.map((r, i) => `${rows.name} ${r}: ${z[i].map(number).join(", ")}`).join("; "));
  }

  function drawHistograms() {
    const g = Number(one("histogram-generation").value), metric = charts.metrics[one("histogram-metric").value], traces = [];
    const found = charts.histograms.points[one("histogram-metric").value];
    const where = charts.select ? [point] : [...new Set(charts.curves.map((curve) => curve.point))];
    const ends = [];
    for (const place of where) {
      const { edges, shares, log: scale } = found[place];
      if (!edges.length) continue;
      if (scale) ends.push(...edges);
      const x = edges.slice(1).map((edge, i) => scale ? Math.sqrt(edge * edges[i]) : (edge + edges[i]) / 2);
      for (const curve of charts.curves.filter((c) => c.point === place && !hidden.has(entry(c)))) {
        const colour = colourOf(curve);
        traces.push({ x, y: shares[curve.policy][g], name: plain(labelOf(curve)), meta: "share", mode: "lines", fill: "tozeroy", fillcolor: clear(colour, 0.15),
          line: { color: colour, dash: curve.dash, shape: "hvh", width: 1.6 }, hovertemplate: "%{y:.1%}" });
      }
    }
    const plot = one("histogram-plot"), units = metric.units ? `, ${metric.units}` : "";
    draw(plot, traces, layout({ xaxis: axis({ title: { text: plain((narrow ? metric.name : metric.title) + units) }, nticks: narrow ? 5 : 10, ...(ends.length ? logTicks(ends) : {}) }), yaxis: axis({ title: { text: "share of the chains", standoff: 6 }, tickformat: ".0%", rangemode: "tozero", nticks: 6 }) }));
    plot.setAttribute("aria-label", `shares of the chains by ${metric.title} at generation ${charts.histograms.generations[g]}`);
  }

  function showImages() {
    const g = Number(one("images-generation").value);
    all("#images figure").forEach((figure, p) => {
      const [img, words] = [figure.querySelector("img"), figure.querySelector(".lost")], source = images.strips[p][g];
      source ? img.setAttribute("src", source) : img.removeAttribute("src");
      img.alt = `${images.count} images of generation ${images.generations[g]} under ${images.policies[p]}`;
      words.textContent = source ? "" : "not finished";
    });
  }

  function showTexts(element) {
    const t = Number(element.dataset.texts), g = Number(one(`texts-generation-${t}`).value);
    all(".rows", element).forEach((rows, p) => {
      const found = texts[t].rows[p][g].filter((text) => text !== "");
      rows.replaceChildren(...(found.length ? found : ["not finished"]).map((text) => Object.assign(document.createElement("p"), { textContent: text })));
    });
  }

  const place = (k) => Math.floor(point / charts.axes.slice(k + 1).reduce((all, a) => all * a.values.length, 1)) % charts.axes[k].values.length;

  function makeLegend() {
    const curves = charts.select ? charts.policies.map((_, p) => charts.curves.find((curve) => curve.policy === p)) : charts.curves;
    curves.forEach((curve, i) => {
      const button = one("curves").querySelector(".legend").appendChild(document.createElement("button"));
      const dashes = { solid: "", dash: "7 4", dot: "2 4", dashdot: "7 3 2 3" }[curve.dash];
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.innerHTML = `<svg width="26" height="8" aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" stroke="${curve.colour === "#000000" ? "currentColor" : curve.colour}" stroke-width="3" stroke-dasharray="${dashes}"/></svg>`;
      button.append(labelOf(curve));
      button.addEventListener("click", () => {
        hidden.has(i) ? hidden.delete(i) : hidden.add(i);
        button.setAttribute("aria-pressed", String(!hidden.has(i)));
        drawAll();
      });
    });
    all(".theory").forEach((words) => { words.hidden = !charts.metrics.some((metric) => metric.curves.some((line) => line.theory)); });
  }

  function drawAll() {
    all("[data-metric]").forEach(drawCurves);
    if (one("sweep")) drawSweep();
    if (one("histograms")) drawHistograms();
    if (charts.select) all("[data-point]").forEach((table) => { table.hidden = Number(table.dataset.point) !== point; });
  }

  function onSlide(id, generations, show) {
    const input = one(id), output = document.querySelector(`output[for="${id}"]`);
    const tell = () => {
      output.textContent = `generation ${generations[input.value].toLocaleString("en")}`;
      input.setAttribute("aria-valuetext", output.textContent);
      show();
    };
    input.addEventListener("input", tell);
    all(`button[aria-controls="${id}"]`).forEach((button) => button.addEventListener("click", () => {
      input.value = Number(input.value) + Number(button.dataset.step);
      input.dispatchEvent(new Event("input", { bubbles: true }));
    }));
    tell();
  }

  function readPoint() {
    point = all("[data-axis]").reduce((sum, select, k) => sum * charts.axes[k].values.length + Number(select.value), 0);
  }

  function themes() {
    const button = one("theme"), names = ["system", "light", "dark"];
    const set = (name) => {
      name === "system" ? document.documentElement.removeAttribute("data-theme") : document.documentElement.setAttribute("data-theme", name);
      button.textContent = `theme: ${name}`;
      keep(localStorage, THEME, name);
    };
    const next = () => names[(names.indexOf(button.textContent.slice(7)) + 1) % names.length];
    set(names.includes(kept(localStorage, THEME)) ? kept(localStorage, THEME) : "system");
    button.addEventListener("click", () => { set(next()); drawAll(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  }

  function reloads() {  // what was chosen outlives a page that loads itself again
    const inputs = () => all("select[id], input[id]");
    const before = JSON.parse(kept(sessionStorage, KEPT) || "{}");
    for (const input of inputs().filter((i) => i.id in before)) input.type === "checkbox" ? (input.checked = before[input.id]) : (input.value = before[input.id]);
    if (!data.again) return;
    addEventListener("pagehide", () => keep(sessionStorage, KEPT, JSON.stringify(Object.fromEntries(inputs().map((i) => [i.id, i.type === "checkbox" ? i.checked : i.value])))));
    setInterval(() => { if (one("again").checked && !document.hidden) location.reload(); }, 1000 * data.again);
  }

  themes();
  reloads();
  if (charts.select) readPoint();
  all("[data-axis]").forEach((select) => select.addEventListener("change", () => { readPoint(); drawAll(); }));
  if (one("curves")) makeLegend();
  drawAll();
  if (one("sweep")) { one("sweep-metric").addEventListener("change", drawSweep); onSlide("sweep-generation", charts.generations, drawSweep); }
  if (one("histograms")) { one("histogram-metric").addEventListener("change", drawHistograms); onSlide("histogram-generation", charts.histograms.generations, drawHistograms); }
  if (images) onSlide("images-generation", images.generations, showImages);
  all("[data-texts]").forEach((element) => onSlide(`texts-generation-${element.dataset.texts}`, texts[element.dataset.texts].generations, () => showTexts(element)));
  document.documentElement.dataset.ready = "yes";
})();
