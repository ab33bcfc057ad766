// Runs the GGUF files that make.py left in a folder in llama.cpp, and compares with the record beside this file.
//
//     node check_llama_cpp.mjs FOLDER
//
// Needs node-llama-cpp (npm install node-llama-cpp), whose llama.cpp is prebuilt. Where llama.cpp is known to compute
// something else than transformers, the prompts that show it are left out, each with its reason.

import fs from "node:fs";
import path from "node:path";
import {fileURLToPath} from "node:url";
import {getLlama} from "node-llama-cpp";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const [folder] = process.argv.slice(2);
// Keys and values are kept as f16: measured 0.02.
const LOGITS_DIFFER = 0.05;
// Prompts of more tokens than this are left out, beside those that the record names.
const LONGEST = {phi3_window: [12, "llama.cpp switches the window off"]};
// Prompts of fewer tokens than this are left out.
const SHORTEST = {
    phi3_longrope: [33, "llama.cpp takes the factors for long contexts, as the context is never below 256"],
};

const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
let failed = false;
for (const file of fs.readdirSync(HERE).filter((name) => name.endsWith(".json") && name !== "refused.json").sort()) {
    const record = JSON.parse(fs.readFileSync(path.join(HERE, file), "utf8"));
    const model = await llama.loadModel({modelPath: path.join(folder, `${record.family}.gguf`)});
    const context = await model.createContext({contextSize: 256, batchSize: 256, sequences: 1});
    const sequence = context.getSequence();
    for (const prompt of record.prompts) {
        const count = prompt.ids.length;
        const [longest, long] = record.gguf.longest ?? LONGEST[record.family] ?? [Infinity];
        const [shortest, short] = SHORTEST[record.family] ?? [0];
        if (count > longest || count < shortest) {
            console.log(`${record.family}, ${count} tokens: left out, as ${count > longest ? long : short}`);
            continue;
        }
        await sequence.clearHistory();
        const input = prompt.ids.map((id, at) =>
            at.toString() in prompt.logits ? [id, {generateNext: {probabilities: true}}] : id
        );
        const output = await sequence.controlledEvaluate(input);
        for (const [place, logits] of Object.entries(prompt.logits)) {
            const {next} = output[Number(place)];
            const ours = new Array(logits.length);
            for (const [id, probability] of next.probabilities) ours[id] = Math.log(probability);
            // A common offset is lost in probabilities.
            const offset = logits.reduce((sum, logit, id) => sum + logit - ours[id], 0) / logits.length;
            const far = Math.max(...logits.map((logit, id) => Math.abs(logit - ours[id] - offset)));
            const top = (list) => list.indexOf(Math.max(...list));
            const good = far < LOGITS_DIFFER && (top(ours) === top(logits) || far > 0);
            failed ||= !good;
            console.log(
                `${record.family}, ${count} tokens, place ${place}: ${far.toFixed(4)} at most apart`
                + `, first ${top(ours)} for ${top(logits)}${good ? "" : "  DIFFERS"}`
            );
        }
    }
    await context.dispose();
    await model.dispose();
}
process.exit(failed ? 1 : 0);
