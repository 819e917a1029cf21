//! Statistics, sizes and what they cost, as a script would ask for them; and what is left when things go wrong.

use super::{Done, allod};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A folder for a test, and arguments that name files in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let story = "Once upon a time there was a little dog named Max. He liked to run in the park with his friend \
                     Lily. One day they found a red ball under a tree. \"Is it yours?\" asked Lily. Max was happy. ";
        fs::write(place.0.path().join("text.txt"), story.repeat(12)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `allod` with words of `command`; those with a dot in them are files of this place.
    fn run(&self, command: &str) -> Done {
        let words = command.split_whitespace();
        let named = |w: &str| if w.contains('.') && w.parse::<f64>().is_err() { self.path(w) } else { w.into() };
        let words: Vec<String> = words.map(|w| named(w).to_str().unwrap().to_owned()).collect();
        allod(&words.iter().map(String::as_str).collect::<Vec<_>>(), "")
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_mix_fits_its_size_is_kept_and_loses_less_than_the_recipe() {
    let p = Place::new();
    let statistics = p.run("imatrix default --text text.txt --ctx 64 -o i.gguf --json").json();
    assert!(statistics["chunks"].as_u64().unwrap() > 5 && statistics["entries"] == 35, "{statistics}");
    let by_name =
        p.run("quantize default --to Q4_K_M --imatrix i.gguf -o recipe.gguf --report --text text.txt --ctx 64 --json");
    let by_name = by_name.json();
    let bits = by_name["bits_per_weight"].as_f64().unwrap();
    let mix = p.run(&format!(
        "quantize default --bpw {bits} --imatrix i.gguf --calibration text.txt -o mix.gguf --report --text text.txt --ctx 64 --json"
    ));
    let mix = mix.json();
    assert!(mix["bytes"].as_u64() <= by_name["bytes"].as_u64());
    let kl = |v: &serde_json::Value| v["quality"]["kl"]["value"].as_f64().unwrap();
    assert!(kl(&mix) < kl(&by_name), "{} against {}", kl(&mix), kl(&by_name));
    let errors = mix["tensors"].as_array().unwrap().iter().filter(|t| t["error"].as_f64().is_some_and(|e| e > 0.0));
    assert_eq!(errors.count(), 36);
    // The file of types, edited, gives what it says.
    let text = fs::read_to_string(p.path("mix.recipe.json")).unwrap();
    fs::write(p.path("mine.json"), text.replace("mix of", "my mix of")).unwrap();
    let again =
        p.run("quantize default --recipe mine.json --imatrix i.gguf -o again.gguf --json --tensor-type attn_q=Q8_0");
    let again = again.json();
    assert!(again["recipe"].as_str().unwrap().starts_with("my mix"));
    for (a, b) in again["tensors"].as_array().unwrap().iter().zip(mix["tensors"].as_array().unwrap()) {
        let expected = if a["name"].as_str().unwrap().contains("attn_q") { &"Q8_0".into() } else { &b["type"] };
        assert_eq!(&a["type"], expected, "{}", a["name"]);
    }
}

#[test]
fn a_file_fits_and_a_dry_run_writes_none() {
    let p = Place::new();
    let dry = p.run("quantize default --fit 1500K -o fits.gguf --dry-run --json").json();
    assert_eq!(p.files(), ["text.txt"]);
    let done = p.run("quantize default --fit 1500K -o fits.gguf --json").json();
    assert_eq!(done["bytes"], dry["bytes"]);
    let size = fs::metadata(p.path("fits.gguf")).unwrap().len();
    assert!((1_420_000..=1_500_000).contains(&size), "{size}");
    let small = p.run("quantize default --fit 100K -o x.gguf");
    assert!(small.code != 0 && small.err.contains("smallest types"), "{}", small.err);
    let parts = p.run("quantize default --to Q8_0 -o m.gguf --split-max-size 1M --json").json();
    assert!(parts["files"].as_array().unwrap().len() >= 3, "{parts}");
    let both = p.run("quantize default --fit 1M --to Q4_0 -o x.gguf");
    assert!(both.code != 0 && both.err.contains("cannot be used with"), "{}", both.err);
}

#[test]
fn predictions_are_saved_and_models_held_against_them() {
    let p = Place::new();
    let found = p.run("eval perplexity default --text text.txt --ctx 64 --save-logits base.kld --json").json();
    let same = p.run("eval kl default --base base.kld --json").json();
    // Predictions are saved in sixteen bits, 16 nats wide.
    assert!(same["kl"]["value"].as_f64().unwrap().abs() < 1e-4, "{same}");
    assert_eq!(same["perplexity"]["value"], found["perplexity"]["value"]);
    for to in ["Q8_0", "Q4_0"] {
        p.run(&format!("quantize default --to {to} -o {to}.gguf --json")).json();
    }
    let all = p.run("eval kl Q8_0.gguf Q4_0.gguf --base base.kld --svg plot.svg --json").json();
    let kl: Vec<f64> =
        all.as_array().unwrap().iter().map(|m| m["divergence"]["kl"]["value"].as_f64().unwrap()).collect();
    assert!(kl[0] < kl[1] && kl[0] > 0.0, "{kl:?}");
    let beside = p.run("eval kl Q4_0.gguf --reference default --text text.txt --ctx 64 --json").json();
    assert!((beside["kl"]["value"].as_f64().unwrap() / kl[1] - 1.0).abs() < 0.02, "{beside}");
    assert!(fs::read_to_string(p.path("plot.svg")).unwrap().contains("Q4_0"));
    let strided = p.run("eval perplexity default --text text.txt --ctx 64 --stride 16 --json").json();
    assert!(strided["perplexity"]["value"].as_f64().unwrap() < found["perplexity"]["value"].as_f64().unwrap());
    let nothing = p.run("eval kl default");
    assert!(nothing.code != 0 && nothing.err.contains("--base"), "{}", nothing.err);
}

#[test]
fn statistics_of_another_model_are_refused() {
    let p = Place::new();
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/../quantize/tests/goldens/imatrix.gguf");
    let out = p.path("x.gguf");
    let done = allod(&["quantize", "default", "--imatrix", other, "-o", out.to_str().unwrap()], "");
    assert!(done.code != 0 && done.err.contains("another model") && done.err.contains("allod imatrix"), "{}", done.err);
    assert_eq!(p.files(), ["text.txt"]);
}

#[test]
fn collecting_goes_on_and_merges() {
    let p = Place::new();
    p.run("imatrix default --text text.txt --ctx 64 --chunks 3 -o a.gguf --json").json();
    let both = p.run("imatrix default --text text.txt --ctx 64 --chunks 2 --merge a.gguf -o b.gguf --json").json();
    assert_eq!(both["chunks"], 5);
    let twice = p.run("imatrix --merge a.gguf --merge b.gguf -o c.gguf --json").json();
    assert_eq!(twice["chunks"], 8);
    fs::write(p.path("chat.jsonl"), "{\"messages\": []}\n").unwrap();
    let none = p.run("imatrix default --chat chat.jsonl -o d.gguf");
    assert!(none.code != 0, "a text without tokens is too short: {}", none.err);
}

#[test]
fn targets_that_cannot_be_written_say_so() {
    let p = Place::new();
    let done = p.run("quantize default -o no.such.folder/x.gguf");
    assert!(done.code != 0 && done.err.contains("no.such.folder"), "{}", done.err);
    fs::create_dir(p.path("folder.gguf")).unwrap();
    let done = p.run("quantize default -o folder.gguf");
    assert!(done.code != 0 && done.err.contains("folder.gguf"), "{}", done.err);
}

/// A limit on the size of files stands for a full disk: writes fail in the middle.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let p = Place::new();
    fs::write(p.path("m.gguf"), b"old").unwrap();
    let script = format!(
        "ulimit -f 600; trap '' XFSZ; exec {} quantize default --to Q8_0 -o {}",
        env!("CARGO_BIN_EXE_allod"),
        p.path("m.gguf").display()
    );
    let done = Command::new("sh").args(["-c", &script]).output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && told.contains("m.gguf") && told.contains("too large"), "{told}");
    assert_eq!(fs::read(p.path("m.gguf")).unwrap(), b"old");
    assert_eq!(p.files(), ["m.gguf", "text.txt"]);
}

#[test]
fn killed_anywhere_the_file_is_the_old_one_or_whole_and_the_work_goes_on() {
    let p = Place::new();
    let (out, whole) = (p.path("m.gguf"), p.path("whole.gguf"));
    let start = |out: &PathBuf| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_allod"));
        c.args(["quantize", "default", "--to", "IQ3_S", "-t", "1", "-o"]).arg(out);
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let began = std::time::Instant::now();
    assert!(start(&whole).wait().unwrap().success());
    let (whole, time) = (fs::read(whole).unwrap(), began.elapsed());
    fs::write(&out, b"old").unwrap();
    for i in 0..6u32 {
        let mut child = start(&out);
        std::thread::sleep(time * (i + 1) / 7 + Duration::from_millis(u64::from(i)));
        // A process that has ended cannot be killed, which is as well.
        let _ = child.kill();
        child.wait().unwrap();
        let found = fs::read(&out).unwrap();
        assert!(found == b"old" || found == whole, "kill {i} left {} bytes", found.len());
    }
    assert!(start(&out).wait().unwrap().success());
    assert!(fs::read(&out).unwrap() == whole);
    assert!(!p.files().iter().any(|f| f.contains("partial")), "{:?}", p.files());
}
