// Joules before the passes and after them, by layer, phase, line, operator or quantity.

const GROUPS = [["module", "layer"], ["block", "block"], ["phase", "phase"], ["where", "line of the model"], ["operator", "operator"],
  ["quantity", "quantity"]];
const MOST = 60;

function energy() {
  const state = { scenario: EXPECTED, group: "module", all: false };
  const place = element("div", {});
  const show = () => place.replaceChildren(...energyTable(state, show));
  show();
  return [
    element("div", { class: "bar" },
      choice("by", GROUPS, state.group, (value) => { state.group = value; show(); }),
      choice("guards", SCENARIOS, state.scenario, (value) => { state.scenario = value; show(); }),
      element("span", {}, ...PHASES.slice(0, 3).map((phase) => key(phase, colour(phase))),
        element("span", { class: "dim" }, "pale: before the passes; full: after"))),
    place,
  ];
}

function energyTable(state, show) {
  const shares = sharesOf(state.scenario);
  const [before, after] = ["before", "after"].map((side) => {
    const items = priced(side, shares);
    return state.group === "quantity" ? items.flatMap(apart) : items;
  });
  const groups = new Map();
  for (const [side, items] of [["before", before], ["after", after]]) {
    for (const item of items) {
      const name = item[state.group];
      if (!groups.has(name)) groups.set(name, { before: {}, after: {} });
      const sums = groups.get(name)[side];
      sums[item.phase] = (sums[item.phase] ?? 0) + item.joules;
    }
  }
  const sum = (sums) => Object.values(sums).reduce((a, b) => a + b, 0);
  const sorted = [...groups].sort(([, a], [, b]) => Math.max(sum(b.before), sum(b.after)) - Math.max(sum(a.before), sum(a.after)));
  const most = Math.max(...sorted.map(([, found]) => Math.max(sum(found.before), sum(found.after))));
  const rows = (state.all ? sorted : sorted.slice(0, MOST)).map(([name, found]) => [
    energyName(state.group, name),
    element("div", { class: "amount" }, stack("before", found.before, most), stack("after", found.after, most)),
    number(joules(sum(found.before))), number(joules(sum(found.after))),
    number(sum(found.before) ? percent(sum(found.after) / sum(found.before)) : "new")]);
  const [a, b] = [total(before), total(after)];
  rows.unshift([element("b", {}, "all"), "", number(joules(a)), number(joules(b)), number(percent(b / a))]);
  const more = sorted.length > MOST && !state.all;
  return [
    table([GROUPS.find(([key]) => key === state.group)[1], "", number("before"), number("after"), number("of before")],
      rows, { class: "energy", id: "energy-table" }),
    more ? element("div", { class: "bar" }, element("button", { onclick: () => { state.all = true; show(); } },
      `show all ${sorted.length}`)) : null,
    element("h2", {}, "After each stage, expected shares"),
    stageTable(),
  ].filter(Boolean);
}

// An item's joules by quantity.
function apart(item) {
  return lines(item.amounts, item.place).map((line) =>
    ({ ...item, quantity: line.quantity, joules: line.joules * item.chance }));
}

function stack(side, sums, most) {
  const parts = Object.entries(sums).sort(([a], [b]) => PHASES.indexOf(a) - PHASES.indexOf(b));
  return element("div", { class: `stack ${side}` }, parts.map(([phase, value]) =>
    element("i", { style: `width:${(100 * value / most).toFixed(2)}%;background:${colour(phase)}`,
      title: `${side}, ${phase}: ${joules(value)}` })));
}

// A layer or a line leads to its rows in the graph.
function energyName(group, name) {
  if (group === "quantity") return name;
  return element("button", { class: "link", title: name, onclick: () => openGraph(STAGES.length - 1, name) }, name);
}

function stageTable() {
  const shares = sharesOf(EXPECTED);
  const found = STAGES.map((stage) => stageJoules(stage.content, shares)).map((sums) => sums && sums.reduce((a, b) => a + b, 0));
  return table(["stage", number("joules of a scheduled step")], STAGES.map((stage, i) =>
    [stage.name, number(found[i] === null ? "a call stands for several: counted from differentiated on" : joules(found[i]))]));
}
