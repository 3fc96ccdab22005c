// Lines over steps: memory and training, and tables of the array and of measurements.

const CHART = { width: 1000, height: 260, left: 64, bottom: 26, top: 10, right: 10 };

// Curves [{name, paint, points: [[x, y], ...]}] over one pair of axes; `about` says what is under the pointer.
function chart(label, curves, { xText, yText, about, filled = false, marks = [] }) {
  const points = curves.flatMap((curve) => curve.points).filter(([, y]) => y !== null);
  if (!points.length) return element("p", { class: "dim" }, "nothing to draw");
  const right = Math.max(1, ...points.map(([x]) => x));
  const high = Math.max(...points.map(([, y]) => y), 1e-12) * 1.05;
  const x = (value) => CHART.left + value / right * (CHART.width - CHART.left - CHART.right);
  const y = (value) => CHART.height - CHART.bottom - value / high * (CHART.height - CHART.bottom - CHART.top);
  const parts = [];
  for (let i = 0; i <= 4; i++) {
    const value = high * i / 4;
    parts.push(drawn("line", { class: "axis", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(value), y2: y(value) }),
      drawn("text", { x: CHART.left - 6, y: y(value) + 4, "text-anchor": "end" }, yText(value)),
      drawn("text", { x: x(right * i / 4), y: CHART.height - 8, "text-anchor": i === 4 ? "end" : "middle" }, xText(right * i / 4)));
  }
  for (const { paint, from, to } of marks) {
    parts.push(drawn("rect", { x: x(from), width: Math.max(0.5, x(to) - x(from)), y: CHART.height - CHART.bottom, height: 5, style: `fill:${paint}` }));
  }
  for (const curve of curves) {
    const drawnPoints = curve.points.filter(([, value]) => value !== null);
    const path = drawnPoints.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L");
    const closing = filled ? `L${x(drawnPoints.at(-1)[0])},${y(0)}L${x(0)},${y(0)}Z` : "";
    parts.push(drawn("path", { d: `M${path}${closing}`, style: `stroke:${curve.paint};stroke-width:1.6;fill:${filled ? curve.paint : "none"};fill-opacity:.25` }));
  }
  const cross = drawn("line", { class: "cross", y1: CHART.top, y2: CHART.height - CHART.bottom, visibility: "hidden" });
  const told = element("p", { class: "dim", "aria-live": "polite" }, "\u00a0");
  const svg = drawn("svg", { class: "chart", viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", tabindex: 0, "aria-label": label }, parts, cross);
  let at = 0;
  const tell = (value) => {
    at = Math.max(0, Math.min(right, value));
    cross.setAttribute("x1", x(at));
    cross.setAttribute("x2", x(at));
    cross.setAttribute("visibility", "visible");
    told.textContent = about(at);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    tell(((event.clientX - box.left) / box.width * CHART.width - CHART.left) / (CHART.width - CHART.left - CHART.right) * right);
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { tell(at + step * Math.max(1, right / 200)); event.preventDefault(); }
  });
  const names = curves.length > 1 ? element("p", {}, curves.map((curve) => key(curve.name, curve.paint))) : null;
  return element("div", {}, ...[names, svg, told].filter(Boolean));
}

function memory() {
  return Object.entries(REPORT.memory).filter(([, found]) => found.bytes.length > 1).flatMap(([name, found]) => {
    const text = (i) => {
      const [operator, phase, place] = found.kernels[i];
      const [module, where] = TABLES.places[place];
      return `kernel ${i + 1} of ${found.bytes.length}: ${bytes(found.bytes[i])}; ${TABLES.phases[phase]} ${TABLES.operators[operator]} ${module} ${where}`;
    };
    const marks = found.kernels.map(([, phase], i) => ({ paint: colour(TABLES.phases[phase]), from: i, to: i + 1 }));
    const peak = Math.max(...found.bytes);
    return [
      element("h2", {}, `${name}: ${bytes(peak)} of temporaries live at the peak, ${bytes(REPORT.compile.planned_bytes[name])} planned`),
      element("p", { class: "dim" }, "State, data and what is returned are not in it. The plan is larger than the peak where freed memory does not fit what is needed next."),
      chart(`memory over ${name}`, [{ name, paint: "var(--accent)", points: found.bytes.map((value, i) => [i, value]) }],
        { xText: (v) => whole(v), yText: bytes, about: (v) => text(Math.min(found.bytes.length - 1, Math.round(v))), filled: true, marks }),
      element("details", {}, element("summary", {}, "the largest at the peak"),
        table([number("size"), "value", "phase", "layer", "line"],
          found.at_peak.map(([size, operator, phase, module, where]) => [number(bytes(size)), operator, phase, module, element("code", {}, where)]))),
    ];
  });
}

// What the FPGA's array does, by its cycle model.
function array() {
  const { array: found } = REPORT;
  const lines = REPORT.compile.lines;
  const parts = [element("p", {}, `${found.board} ${found.configuration}: ${found.macs_per_cycle} multiply-accumulates a cycle, `
    + `${found.clock_hz / 1e6} MHz. Modelled, with a DRAM latency of ${found.latency_cycles} cycles, ${found.latency_source}.`)];
  for (const [name, sum] of Object.entries(found.totals)) {
    if (!sum.cost.cycles) continue;
    const rows = found.rows.filter((row) => row.calls[name]).sort((a, b) => b.each.cost.cycles * b.calls[name] - a.each.cost.cycles * a.calls[name]);
    const cells = (text, phase, calls, each, times) => [text, phase, number(whole(calls)), number(whole(each.cost.cycles * times)),
      number(percent(each.cost.cycles * times / sum.cost.cycles)), number(si(each.seconds * times, "s")), meter(each.utilisation),
      number(percent(each.of_bound)), number(percent(each.alu_share))];
    parts.push(element("h2", {}, `One call of ${name}`),
      table(["layer", "phase", number("calls"), number("cycles"), number("share"), number("time"), "utilisation of the array", number("compute"), number("ALU"), "line"],
        [[...cells("all", "", rows.reduce((a, row) => a + row.calls[name], 0), sum, 1), ""],
          ...rows.map((row) => [...cells(row.text, row.phase, row.calls[name], row.each, row.calls[name]),
            element("code", {}, [...new Set((lines[row.name] ?? []).map((line) => line.split(": ")[0]))].join(", "))])], { id: "array-table" }));
    const left = found.host.filter((row) => row.calls[name]);
    const why = (row) => (row.host_seconds === null ? row.reason
      : `${row.reason}: ${si(row.host_seconds, "s")} a call, by the array ${si(row.array_seconds, "s")}, modelled`);
    parts.push(element("p", { class: "dim" }, `${whole(found.host_calls[name])} calls of kernels on the host`
      + (left.length ? `; integer products that the host does: ${left.map((row) => `${row.text}, ${row.phase} (${why(row)})`).join("; ")}` : "")));
  }
  return parts;
}

const RUN_PAINTS = ["var(--accent)", "var(--heat)", "var(--update)", "var(--backward)", "var(--evaluation)"];

function training() {
  const { runs } = REPORT;
  const sum = (run, what) => total(priced("after", sharesOf(`run ${run.name}`)), what) * run.steps_scheduled;
  const paint = (i) => RUN_PAINTS[i % RUN_PAINTS.length];
  const shown = (value, text) => (value === null || value === undefined ? "none" : text(value));
  const curves = runs.map((run, i) => ({ name: run.name, paint: paint(i), points: run.loss.map((loss, k) => [(k + 0.5) * run.loss_steps, loss]) }));
  const scores = runs.map((run, i) => ({ name: run.name, paint: paint(i), points: run.history.map((row) => [row.step, row.accuracy]) }));
  // The epochs whose weights are averaged, the last of those that a run has to its end.
  const averages = runs.flatMap((run, i) => {
    const epoch = run.history[0]?.step;
    const ends = run.history.map((row) => row.step).filter((step) => step % epoch === 0);
    return run.averaged_epochs ? ends.slice(-run.averaged_epochs).map((step) => ({ paint: paint(i), from: step - epoch / 8, to: step })) : [];
  });
  const near = (points, at) => points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best), points[0]);
  const about = (found, text) => (at) => found.filter((curve) => curve.points.length).map((curve) => {
    const [step, value] = near(curve.points, at);
    return `${curve.name}, step ${Math.round(step)}: ${shown(value, text)}`;
  }).join("; ");
  return [
    table(["run", number("scheduled"), number("executed"), number("test accuracy"), number("test loss"), number("joules, modelled"), number(`seconds of steps, modelled for ${PRICES.name}`), number("seconds here, measured"), number("array seconds, modelled")],
      runs.flatMap((run) => [
        [run.name, number(whole(run.steps_scheduled)), number(whole(run.steps_executed)), number(shown(run.accuracy, percent)),
          number(shown(run.test_loss, (v) => v.toFixed(4))), number(joules(sum(run, "joules"))), number(plain(sum(run, "seconds"))),
          number(shown(run.seconds, (v) => v.toFixed(1))), number(shown(run.modelled_device_seconds, (v) => v.toPrecision(3)))],
        ...(run.averaged_epochs ? [[`${run.name}, mean of the weights after ${whole(run.averaged_epochs)} epochs`, number(""), number(""),
          number(shown(run.averaged_accuracy, percent)), number(shown(run.averaged_test_loss, (v) => v.toFixed(4))), ...Array(4).fill(number(""))]] : []),
      ]), { id: "runs-table" }),
    element("p", { class: "dim" }, "Joules and modelled seconds are those of the executed steps. Measured seconds are this machine's, with data and evaluation: another machine than the prices', they are no test of them."),
    element("h2", {}, "Training loss over executed steps"),
    chart("training loss", curves, { xText: whole, yText: plain, about: about(curves, (v) => v.toFixed(4)) }),
    element("h2", {}, "Validation accuracy over scheduled steps"),
    ...(averages.length ? [element("p", { class: "dim" }, "Weights after the epochs that have a mark below the axis go into the run's average. It is tested once, at the end: see the table.")] : []),
    chart("validation accuracy", scores, { xText: whole, yText: percent, about: about(scores, percent), marks: averages }),
    ...runs.flatMap((run) => sharesTable(run)),
  ];
}

function sharesTable(run) {
  const kinds = [["executed", "samples that each gated block ran for"], ["predicted", "weights whose sign was sure"],
    ["fallback", "steps in which the full product ran"]];
  return kinds.filter(([kind]) => Object.keys(run[kind] ?? {}).length).flatMap(([kind, text]) => [
    element("h2", {}, `${run.name}: ${text}`),
    table([], Object.entries(run[kind]).map(([name, share]) => [name, meter(share)]))]);
}

// Joules that a meter has read beside those of the table for the same work.
function measured() {
  const { source, date, rows } = REPORT.measured;
  const error = rows.map((row) => Math.abs(row.predicted - row.measured) / row.measured).sort((a, b) => a - b);
  return [
    element("p", {}, `${source} (${date}). Predicted: ${PRICES.name}, for the work of each row and its own seconds. Median error ${percent(error[Math.floor(error.length / 2)])}.`),
    table(["group", number("measured"), number("predicted, modelled"), number("predicted / measured"), ""], rows.map((row) => [
      row.group, number(joules(row.measured)), number(joules(row.predicted)), number(percent(row.predicted / row.measured)),
      meter(Math.min(1, row.predicted / row.measured / 2))]), { id: "measured-table" }),
  ];
}
