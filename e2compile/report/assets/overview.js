// What was compiled and for what, what it costs, how it was verified.

function figure(value, about) {
  return element("div", { class: "figure" }, element("b", {}, value), element("span", { class: "dim" }, about));
}

function overview() {
  const { program, compile, verified } = REPORT;
  const [before, after] = ["before", "after"].map((side) => priced(side, sharesOf(EXPECTED)));
  const saved = total(after) / total(before);
  const seconds = total(after, "seconds");
  const worst = Object.entries(verified.worst);
  const rows = [
    ["model", program.source || "made in Python"],
    ["target", REPORT.array ? `${program.target}: ${REPORT.array.board} ${REPORT.array.configuration}` : program.target],
    ["passes", program.passes.join(", ") || "none"],
    ["batch", program.batch.join(", ")],
    ["data, epochs, seed", `${program.data ?? "the model file's own"}, ${program.epochs}, ${program.seed}`],
    ["kernels", `${compile.kernels} distinct; calls: ${listed(compile.calls)}`],
    ["planned memory", listed(compile.planned_bytes, bytes)],
    ["compile time", listed(compile.seconds, (value) => si(value, "s"))],
    ["compiled", `${program.created} by ${listed(program.versions)}`],
    ["fingerprint", element("code", {}, program.fingerprint.slice(0, 16))],
  ];
  return [
    element("div", { class: "figures" },
      figure(joules(total(before)), "a scheduled step before the passes, modelled"),
      figure(joules(total(after)), "after them, expected, modelled"),
      figure(percent(saved), "of the joules before"),
      seconds ? figure(si(seconds, "s"), "a scheduled step after, modelled") : null,
      figure(verified.passed === null ? "not done" : verified.passed ? "passed" : "failed",
        verified.passed === null ? "verification (--no-verify)" : `verification: ${whole(verified.tensors)} tensors`)),
    element("p", { class: "dim" }, `Prices: ${PRICES.name}. ${PRICES.about}`),
    element("h2", {}, "What was compiled"),
    table([], rows),
    element("h2", {}, "Stages"),
    table(["stage", number("rows"), number("changed"), "what the pass left alone, and why"],
      REPORT.stages.map((stage, i) => [
        element("button", { class: "link", onclick: () => openGraph(i) }, stage.name),
        number(whole(stage.names.length)), number(whole(stage.changed)), noted(stage.notes)])),
    worst.length ? element("h2", {}, "Closest to its bound, by check") : null,
    worst.length ? table(["check", "tensor", number("error"), number("bound")], worst.map(([name, row]) =>
      [name, row.target, number(row.error.toPrecision(2)), number(row.bound ? row.bound.toPrecision(2) : "exact")])) : null,
  ];
}

function noted(notes) {
  if (notes.length < 3) return element("div", {}, notes.map((note) => element("div", {}, note)));
  return element("details", {}, element("summary", {}, `${notes.length} places`),
    notes.map((note) => element("div", {}, note)));
}

function listed(found, text = whole) {
  return Object.entries(found).map(([name, value]) => `${name} ${typeof value === "string" ? value : text(value)}`).join(", ");
}

// The prices that the joules rest on, each with how it is known.
function prices() {
  const figures = Object.entries(PRICES.figures);
  return [
    element("p", {}, "Joules are counted work times these prices. The amounts are modelled in every case: operations are ",
      "counted exactly, bytes are an upper bound. A tag says how the price itself is known."),
    table(["quantity", number("price"), "tag", "source", "note"], figures.map(([quantity, figure]) => [
      element("code", {}, quantity), number(`${plain(figure.value)} ${figure.unit}`),
      element("span", { class: "tag" }, figure.tag), `${figure.source} (${figure.date})`, figure.note])),
    element("h2", {}, "Shares that are executed"),
    table(["condition", ...SCENARIOS.slice(0, -2).map(([, name]) => number(name)), "expected because"],
      Object.entries(REPORT.shares).map(([name, share]) => [
        element("code", {}, name),
        ...SCENARIOS.slice(0, -2).map(([scenario]) => number(percent(sharesOf(scenario)[name]))),
        element("span", {}, element("span", { class: "tag" }, share.tag), ` ${share.source}`)])),
    REPORT.device.source ? element("p", { class: "dim" }, `Seconds of the array: ${REPORT.device.source}`) : null,
  ];
}
