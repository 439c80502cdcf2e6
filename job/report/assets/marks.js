// Marks on a chart for what happened: alarms, checkpoints, resumes, superseded steps.
// marks: [{per, marks}], for each run; per: the steps in one unit of the axis.

const paintUndone = (plot, marks) => {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = css("veil");
  for (const { per, marks: { superseded } } of marks) {
    for (const [from, to] of superseded) {
      const left = plot.valToPos(from / per, "x", true), right = plot.valToPos(to / per, "x", true);
      ctx.fillRect(left, bbox.top, Math.max(right - left, 2), bbox.height);
    }
  }
  ctx.restore();
};

const paintMarks = (plot, marks) => {
  const { ctx, bbox } = plot, dot = devicePixelRatio, bottom = bbox.top + bbox.height;
  const inside = (x) => x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1;
  ctx.save();
  for (const { per, marks: { checkpoints, resumes, alarms } } of marks) {
    const at = (steps) => steps.map((step) => plot.valToPos(step / per, "x", true)).filter(inside);
    const saved = at(checkpoints), dense = saved.length > plot.width / 8;
    ctx.fillStyle = css(dense ? "line" : "soft");
    for (const x of saved) ctx.fillRect(x - dot / 2, bottom - 5 * dot, dot, 5 * dot);
    ctx.fillStyle = css("resume");
    for (const x of at(resumes)) ctx.fillRect(x - dot / 2, bbox.top, 1.5 * dot, bbox.height);
    ctx.fillStyle = css("alarm");
    for (const x of at(alarms.map((alarm) => alarm.step))) {
      ctx.beginPath();
      ctx.moveTo(x - 5 * dot, bbox.top - 8 * dot);
      ctx.lineTo(x + 5 * dot, bbox.top - 8 * dot);
      ctx.lineTo(x, bbox.top);
      ctx.fill();
    }
  }
  ctx.restore();
};
