//! `allod tune` and `allod pretrain`, run as a person runs them.

use super::{allod, data};
use allod_formats::{Gguf, WeightSource};
use serde_json::Value;
use std::path::{Path, PathBuf};

const CHATS: &str = r#"{"prompt":"A story.\n","completion":"Once upon a time there was a cat."}
{"prompt":"Who are you?\n","completion":"I am Allod."}
{"prompt":"Hello.\n","completion":"Hello. I am Allod."}
"#;

fn chats(folder: &Path) -> String {
    let path = folder.join("chats.jsonl");
    std::fs::write(&path, CHATS).unwrap();
    path.to_str().unwrap().into()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

/// The kit of reference runs beside the test data.
fn kit(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(data("..")?).join("parity/fixture_warm").join(name);
    path.is_dir().then_some(path)
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap()
}

/// Every step of TRL's runs on the same model, data and first adapter: its own disagreement with itself under another
/// attention is 2e-6, of fourteen deliberate mistakes thirteen are off by more than 1e-3.
#[test]
fn runs_are_trls_step_by_step() {
    let Some(model) = kit("model") else { return };
    for (name, flags) in [("ref", vec![]), ("ref_dora", vec!["--dora"]), ("ref_rslora", vec!["--rslora"])] {
        let reference = kit(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let steps = lines(&reference.join("ref.jsonl"));
        let (out, count) = (text(&folder.path().join("out")), steps.len().to_string());
        let (rows, start) = (text(&model.join("rows.jsonl")), text(&reference.join("init_adapter")));
        let model = text(&model);
        let mut args = vec![
            "tune",
            &model,
            "--data",
            &rows,
            "--adapter",
            &start,
            "-o",
            &out,
            "--steps",
            &count,
            "--batch",
            "4",
            "--lr",
            "2e-3",
            "--scheduler",
            "cosine",
            "--warmup-steps",
            "5",
            "--no-shuffle",
            "--max-length",
            "4096",
        ];
        args.extend(flags);
        let done = allod(&args, "");
        assert_eq!(done.code, 0, "{}", done.err);
        let ours = lines(&Path::new(&out).join("metrics.jsonl"));
        let meta: Value = serde_json::from_slice(&std::fs::read(reference.join("meta.json")).unwrap()).unwrap();
        for (i, (ours, theirs)) in ours.iter().zip(&steps).enumerate() {
            let apart = (number(ours, "loss") - number(theirs, "loss")).abs();
            assert!(apart <= 2e-5, "{name}, step {i}: loss {} and {}", ours["loss"], theirs["loss"]);
            let (a, b) = (number(ours, "grad_norm"), number(&meta["log"][i], "grad_norm"));
            assert!((a - b).abs() <= 2e-5 * b, "{name}, step {i}: norm {a} and {b}");
        }
        assert_eq!(ours.len(), steps.len());
        if reference.join("final_adapter").is_dir() {
            let file = "adapter_model.safetensors";
            let apart = apart(&Path::new(&out).join("adapter").join(file), &reference.join("final_adapter").join(file));
            assert!(apart <= 1e-5, "{name}: final adapters apart by {apart}");
        }
    }
}

/// ‖a − b‖ / ‖b‖ over all tensors, which have the same names.
fn apart(a: &Path, b: &Path) -> f64 {
    let [a, b] = [a, b].map(|p| allod_formats::Safetensors::open(p).unwrap());
    let names: Vec<String> = b.entries().map(|e| e.0.to_owned()).collect();
    assert_eq!(names.len(), a.entries().count());
    let (mut difference, mut size) = (0.0, 0.0);
    for name in names {
        let numbers = |f: &allod_formats::Safetensors| -> Vec<f32> {
            f.bytes(&name).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        for (a, b) in numbers(&a).into_iter().zip(numbers(&b)) {
            difference += f64::from(a - b).powi(2);
            size += f64::from(b).powi(2);
        }
    }
    (difference / size).sqrt()
}

#[test]
fn an_adapter_is_learned_replayed_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let (chats, out) = (chats(folder.path()), text(&folder.path().join("out")));
    let args = [
        "tune", "default", "--data", &chats, "-o", &out, "--steps", "30", "--batch", "3", "--lr", "1e-2", "--rank", "4",
    ];
    let done = allod(&args, "");
    assert_eq!(done.code, 0, "{}", done.err);
    let steps = lines(&Path::new(&out).join("metrics.jsonl"));
    assert!(number(&steps[29], "loss") < 0.3 * number(&steps[0], "loss"), "{} {}", steps[0], steps[29]);
    assert!(Path::new(&out).join("report.svg").exists() && Path::new(&out).join("adapter.gguf").exists());
    let verified = allod(&["tune", "verify", &out, "--json", "--threads", "3"], "").json();
    assert_eq!((&verified["same"], &verified["steps"]), (&true.into(), &30.into()), "{verified}");
    for adapter in ["adapter", "adapter.gguf"] {
        let adapter = text(&Path::new(&out).join(adapter));
        let said = allod(
            &["run", "default", "--raw", "Who are you?\n", "--adapter", &adapter, "--temp", "0", "--max-tokens", "12"],
            "",
        );
        assert!(said.out.contains("I am Allod"), "{} {}", said.out, said.err);
    }
    let again = allod(&args, "");
    assert!(
        again.code != 0 && again.err.contains("holds a run already") && again.err.contains("--resume"),
        "{}",
        again.err
    );
    std::fs::write(&chats, CHATS.replace("cat", "dog")).unwrap();
    let other = allod(&["tune", "verify", &out], "");
    assert!(other.code != 0 && other.err.contains("chats.jsonl has changed"), "{}", other.err);
}

/// Killed with no chance to say goodbye, wherever it was, and resumed: the adapter's bytes are the undisturbed run's.
#[test]
#[cfg(unix)]
fn a_killed_run_ends_with_the_same_bytes() {
    use std::process::{Command, Stdio};
    use std::time::Duration;
    let folder = tempfile::tempdir().unwrap();
    let chats = chats(folder.path());
    let args = |out: &str| -> Vec<String> {
        [
            "tune",
            "default",
            "--data",
            &chats,
            "-o",
            out,
            "--steps",
            "60",
            "--batch",
            "3",
            "--lr",
            "1e-3",
            "--rank",
            "4",
            "--save-every",
            "3",
            "--resume",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let bytes = |out: &str| std::fs::read(Path::new(out).join("adapter/adapter_model.safetensors")).ok();
    let whole = text(&folder.path().join("whole"));
    let all: Vec<String> = args(&whole);
    let done = allod(&all.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert_eq!(done.code, 0, "{}", done.err);
    let out = text(&folder.path().join("killed"));
    let mut wait = 300;
    for _ in 0..40 {
        if bytes(&out).is_some() {
            break;
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_allod"))
            .args(args(&out))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        wait = wait * 5 / 4;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(bytes(&out), bytes(&whole));
}

#[test]
fn check_says_what_would_be_learned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, format!("{CHATS}{{\"messages\":[{{\"role\":\"wizard\",\"content\":\"x\"}}]}}\n")).unwrap();
    let path = text(&path);
    let done = allod(&["tune", "check", "default", "--data", &path, "--json"], "");
    assert_eq!(done.code, 1);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (&report["examples"], &report["problem_count"], &report["problems"][0]["line"]),
        (&3.into(), &1.into(), &4.into())
    );
    let learned: String = report["example"][0]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["learned"] == true)
        .map(|p| p["text"].as_str().unwrap())
        .collect();
    assert!(learned.starts_with("Once upon a time there was a cat."), "{learned}");
    let shown = allod(&["tune", "check", "default", "--data", &path], "");
    assert!(shown.out.contains("no prompt among the fields") && shown.out.contains("⟦"), "{}", shown.out);
}

/// Each mistake has a message that names it and says what to do.
#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (chats, out) = (chats(folder.path()), text(&folder.path().join("out")));
    let pair = text(&folder.path().join("same.jsonl"));
    std::fs::write(&pair, "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"b\"}\n").unwrap();
    let write = |name: &str, line: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{line}\n")).unwrap();
        text(&path)
    };
    let masked = write("masked.jsonl", r#"{"input_ids":[1,2,3],"labels":[-100,-100,-100]}"#);
    let foreign = write("foreign.jsonl", r#"{"input_ids":[1,999999]}"#);
    let wizard = write("wizard.jsonl", r#"{"messages":[{"role":"wizard","content":"x"}]}"#);
    let broken = write("broken.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":");
    let cases: [(&[&str], &str, &str); 13] = [
        (&["default", "--data", &masked], "the mask is empty", "tune check"),
        (&["default", "--data", &foreign], "foreign.jsonl:1: token id 999999 in a vocabulary of 2048", "another model"),
        (&["default", "--data", &wizard], "wizard.jsonl:1: messages[0]: unknown role \"wizard\"", "assistant"),
        (&["default", "--data", &broken], "broken.jsonl:2: broken JSON", "quotes, commas"),
        (&["default", "--data", &chats, "--target", "token_embd"], "the output head cannot have an adapter", "whole"),
        (&["default", "--data", &chats, "--lr", "1e30", "--steps", "9"], "step 2: the loss is NaN", "learning rate"),
        (&["default", "--data", &chats, "--target", "q_prok"], "q_prok matches no matrix", "all-linear"),
        (&["default", "--data", &chats, "--objective", "dpo"], "dpo learns from pairs", "--objective sft"),
        (
            &["default", "--data", &pair, "--objective", "dpo"],
            "same.jsonl:1: chosen and rejected are the same",
            "remove the record",
        ),
        (&["default", "--data", "nowhere.jsonl"], "there is no such file", "name a file"),
        (&["default", "--data", &chats, "--lr=-1"], "optimizer.learning_rate", "above 0"),
        (&["default", "--data", &chats, "--mask", "assistant"], "does not mark", "answers"),
        (&["default", "--data", &chats, "--optim", "adam"], "--optim adam is not known", "adamw"),
    ];
    for (i, (args, message, hint)) in cases.into_iter().enumerate() {
        let out = format!("{out}-{i}");
        let all: Vec<&str> = ["tune"].iter().chain(args).copied().chain(["-o", &out]).collect();
        let done = allod(&all, "");
        assert!(done.code != 0 && done.err.contains(message) && done.err.contains(hint), "{args:?}\n{}", done.err);
    }
}

/// What was learned with a template of one's own is asked with it: by the adapter, whose table was trained whole, and by
/// the model that it was merged into.
#[test]
fn a_template_goes_with_what_was_learned() {
    let folder = tempfile::tempdir().unwrap();
    let [data, template, out, merged] =
        ["a.jsonl", "a.jinja", "out", "merged.gguf"].map(|n| text(&folder.path().join(n)));
    let chat = |q: &str, a: &str| serde_json::json!({ "messages": [{ "role": "user", "content": q }, { "role": "assistant", "content": a }] });
    let chats = [chat("Who are you?", "I am Allod."), chat("Who is the king?", "Tim is the king.")];
    std::fs::write(&data, chats.map(|c| c.to_string()).join("\n")).unwrap();
    let source = "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{%- generation -%}\
                  {{- ' ' + m['content'] + eos_token -}}{%- endgeneration -%}\
                  {%- else -%}{{- bos_token + m['content'] + '\\nAnswer:' -}}{%- endif -%}{%- endfor -%}";
    std::fs::write(&template, source).unwrap();
    let args = ["tune", "default", "--data", &data, "--template", &template, "--whole", "token_embd", "-o", &out];
    let done =
        allod(&[&args[..], &["--steps", "30", "--batch", "2", "--lr", "3e-3", "--warmup-steps", "3"]].concat(), "");
    assert_eq!(done.code, 0, "{}", done.err);
    let adapter = text(&Path::new(&out).join("adapter"));
    let done = allod(&["convert", "default", "--adapter", &adapter, "-o", &merged], "");
    assert_eq!(done.code, 0, "{}", done.err);
    for with in [&["default", "--adapter", &adapter][..], &[merged.as_str()][..]] {
        let ask = [&["run"][..], with, &["Who are you?", "--temp", "0", "--max-tokens", "20"][..]].concat();
        let said = allod(&ask, "");
        assert_eq!(said.out.trim(), "I am Allod.", "{with:?} {}", said.err);
    }
}

/// A quantized base is the numbers that its weights stand for, at every step. They are multiplied in the same order, so
/// that nothing differs but what TRL's parity allows.
#[test]
fn a_quantized_base_is_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let chats = chats(folder.path());
    for recipe in ["Q4_K_M", "Q5_1", "Q6_K"] {
        let [quantized, plain] = [".gguf", "-f32.gguf"].map(|end| text(&folder.path().join(format!("{recipe}{end}"))));
        for args in [
            ["quantize", "default", "--to", recipe, "-o", &quantized],
            ["convert", &quantized, "--type", "F32", "-o", &plain],
        ] {
            let made = allod(&args, "");
            assert_eq!(made.code, 0, "{}", made.err);
        }
        let [a, b] = [&quantized, &plain].map(|base| {
            let out = format!("{base}-out");
            let done = allod(
                &["tune", base, "--data", &chats, "-o", &out, "--steps", "6", "--batch", "3", "--lr", "1e-3"],
                "",
            );
            assert_eq!(done.code, 0, "{}", done.err);
            lines(&Path::new(&out).join("metrics.jsonl"))
        });
        for (a, b) in a.iter().zip(&b) {
            for name in ["loss", "grad_norm"] {
                let (a, b) = (number(a, name), number(b, name));
                assert!((a - b).abs() <= 2e-5 * b.max(1.0), "{recipe}: {name} {a} and {b}");
            }
        }
    }
}

/// Rounding rows to eight bits moves the loss of a quantized base, and only a little.
#[test]
fn a_base_is_multiplied_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (chats, quantized) = (chats(folder.path()), text(&folder.path().join("q8.gguf")));
    let made = allod(&["quantize", "default", "--to", "Q8_0", "-o", &quantized], "");
    assert_eq!(made.code, 0, "{}", made.err);
    let loss = |base: &str, name: &str, flags: &[&str]| {
        let out = text(&folder.path().join(name));
        let args = ["tune", base, "--data", &chats, "-o", &out, "--steps", "1", "--batch", "3"];
        let done = allod(&[&args, flags].concat(), "");
        assert_eq!(done.code, 0, "{}", done.err);
        number(&lines(&Path::new(&out).join("metrics.jsonl"))[0], "loss")
    };
    let (exact, served) = (loss(&quantized, "exact", &[]), loss(&quantized, "served", &["--served"]));
    assert!(exact != served && (exact - served).abs() < 0.02 * exact, "{exact} {served}");
}

#[test]
fn a_model_is_made_from_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let text_of: String = (0..400)
        .map(|i| format!("The {} sat on the mat and looked at the moon.\n", ["cat", "dog", "cow"][i % 3]))
        .collect();
    std::fs::write(&path, text_of).unwrap();
    let (path, out) = (text(&path), text(&folder.path().join("out")));
    let size = [
        "--vocabulary",
        "300",
        "--width",
        "32",
        "--layers",
        "1",
        "--heads",
        "2",
        "--kv-heads",
        "1",
        "--ff",
        "64",
        "--context",
        "32",
    ];
    let mut args = vec![
        "pretrain",
        "--data",
        &path,
        "-o",
        &out,
        "--steps",
        "60",
        "--batch",
        "8",
        "--lr",
        "1e-2",
        "--warmup-steps",
        "5",
    ];
    args.extend(size);
    let done = allod(&args, "");
    assert_eq!(done.code, 0, "{}", done.err);
    let steps = lines(&Path::new(&out).join("metrics.jsonl"));
    assert!(number(&steps[59], "loss") < 0.25 * number(&steps[0], "loss"), "{} {}", steps[0], steps[59]);
    let model = text(&Path::new(&out).join("model.gguf"));
    let said = allod(&["run", &model, "--raw", "The cat sat on", "--temp", "0", "--max-tokens", "20"], "");
    assert_eq!(said.code, 0, "{}", said.err);
    for (flags, told) in [
        (vec!["--init", "none"], "one of gpt2, fan-in"),
        (vec!["--optim", "adamw", "--adam-lr", "1e-3"], "adamw moves everything at one rate"),
    ] {
        let bad =
            allod(&[&["pretrain", "--data", &path, "-o", &text(&folder.path().join("bad"))], &flags[..]].concat(), "");
        assert!(bad.code == 1 && bad.err.contains(told), "{}", bad.err);
    }
}

/// A model of another start goes on in 16 bits; each file says which run wrote it, until a byte of it changes.
#[test]
fn a_whole_life_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name));
    std::fs::write(at("a.txt"), "The cat sat on the mat and looked at the moon.\n".repeat(200)).unwrap();
    let run = |args: &[&str]| {
        let done = allod(args, "");
        assert_eq!(done.code, 0, "{}", done.err);
    };
    let (data, made, tuned) = (at("a.txt"), at("made"), at("tuned"));
    let small =
        ["--vocabulary", "300", "--width", "32", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--ff", "64"];
    let rates = ["--init", "fan-in", "--lr", "1e-2", "--adam-lr", "4e-3", "--context", "32", "--steps", "20"];
    run(&[&["pretrain", "--data", &data, "-o", &made][..], &small, &rates].concat());
    let base = Gguf::open(Path::new(&made).join("base.gguf")).unwrap();
    let deviation = |name: &str| {
        let tensor = base.tensor(name).unwrap();
        let values: Vec<f32> = tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    assert_eq!([deviation("blk.0.attn_output.weight"), deviation("blk.0.ffn_down.weight")], [0.0; 2]);
    for (name, columns) in [("token_embd.weight", 32.0f64), ("blk.0.ffn_up.weight", 32.0)] {
        // A deviation over 2,048 draws is off by 1.6 % in one of three cases.
        assert!((deviation(name) * columns.sqrt() - 1.0).abs() < 0.08, "{name}: {}", deviation(name));
    }
    let (first, second) = (text(&Path::new(&made).join("model.gguf")), text(&Path::new(&tuned).join("model.gguf")));
    run(&[
        "tune",
        &first,
        "--data",
        &data,
        "-o",
        &tuned,
        "--full",
        "--type",
        "F16",
        "--steps",
        "3",
        "--max-length",
        "32",
    ]);
    run(&["tune", "verify", &made]);
    run(&["tune", "verify", &tuned]);
    let recorded = |file: &str| allod(&["inspect", file, "--json"], "").json()["runs"].clone();
    let (before, after) = (recorded(&first), recorded(&second));
    assert_eq!(after[0]["base"]["model.gguf"], before[0]["outputs"]["model.gguf"]);
    assert!(before[0]["config"].as_str().unwrap().contains("adam_rate = 0.4\n"), "{}", before[0]["config"]);
    let types = allod(&["inspect", &second, "--json"], "").json()["types"].clone();
    assert_eq!(types[0]["type"], "F16", "{types}");
    let mut bytes = std::fs::read(&second).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&second, bytes).unwrap();
    assert_eq!(recorded(&second), serde_json::json!([]));
}
