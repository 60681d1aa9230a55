// Loaded into jsii's Node before its own code; tools/node.py says why, and names the folder.
"use strict";
const fs = require("node:fs");
const { enableCompileCache } = require("node:module");
const path = require("node:path");

const kept = process.env.EDGEWRIGHT_KEPT_KERNEL;
const { mkdtempSync } = fs;

fs.mkdtempSync = (prefix, ...rest) => {
  if (kept && path.basename(String(prefix)) === "jsii-kernel-") {
    try {
      // jsii removes it at its end.
      fs.mkdirSync(kept);
      enableCompileCache(path.join(path.dirname(kept), "compiled"));
      return kept;
    } catch {
      // It is there already, or cannot be made: any name does, only nothing is kept.
    }
  }
  return mkdtempSync(prefix, ...rest);
};
