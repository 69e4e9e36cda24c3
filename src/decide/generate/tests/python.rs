//! Python: what pip is asked, what follows from its answer, and what runs.

use serde_json::{Value, json};

use super::super::*;
use super::{made, plan_of, toolchain};

/// What pip says of these wheels.
fn report(wheels: &[(&str, &str, &str)]) -> String {
    let install = wheels.iter().map(|(name, version, url)| {
        let sum = "0a".repeat(32);
        json!({"download_info": {"url": url, "archive_info": {"hashes": {"sha256": sum}}}, "metadata": {"name": name, "version": version}})
    });
    json!({"version": "1", "install": install.collect::<Vec<_>>()}).to_string()
}

#[test]
fn python_is_built_with_what_pip_finds_for_its_requirements() {
    let requirements = "# ours\nFlask>=3  # the framework\n-r more/other.txt\n--only-binary :all:\n-c limits.txt\n";
    let files = [
        ("requirements.txt", requirements),
        ("more/other.txt", "gunicorn==23.0.0 \\\n    --hash=sha256:00\n-r ../requirements.txt\n"),
        ("limits.txt", "click<9\n"),
        ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
    ];
    let recipe = made(BuildStrategy::AutoPython, &files).expect("a recipe");
    let lookup = recipe.lookup.clone().expect("pip is asked");
    assert_eq!(lookup.requirements, ["Flask>=3", "gunicorn==23.0.0 --hash=sha256:00"]);
    assert_eq!((lookup.constraints.as_slice(), recipe.is_locked()), (&["click<9".to_owned()][..], false));

    let flask = ("Flask", "3.1.0", "https://example.org/p/flask-3.1.0-py3-none-any.whl");
    let gunicorn = ("gunicorn", "23.0.0", "https://example.org/p/gunicorn-23.0.0-py3-none-any.whl");
    let native = ("m", "1.0+x", "https://example.org/p/m-1.0%2Bx-cp311-cp311-manylinux_2_17_x86_64.whl");
    let settled = recipe.clone().settle(&report(&[flask, gunicorn])).expect("settles");
    let plan = plan_of(&settled);
    assert_eq!((plan["start"].clone(), plan["native"].clone()), (json!("gunicorn app:app"), json!(false)));
    let hash = "sha256-CgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo=";
    assert_eq!(
        plan["dependencies"][0],
        json!({"name": "flask-3.1.0-py3-none-any.whl", "place": "flask-3.1.0-py3-none-any.whl", "url": flask.2, "hash": hash})
    );
    assert_eq!(settled.notes, Vec::<String>::new());
    // What is not there cannot run it.
    let settled = recipe.clone().settle(&report(&[flask, native])).expect("settles");
    let plan = plan_of(&settled);
    assert!(plan["start"].as_str().expect("a command").starts_with("flask --app app:app run --host 0.0.0.0"));
    assert!(settled.notes[0].contains("made for development"), "{:?}", settled.notes);
    assert_eq!(
        (plan["native"].clone(), settled.dependencies[1].place.as_str()),
        (json!(true), "m-1.0+x-cp311-cp311-manylinux_2_17_x86_64.whl")
    );
    let why = recipe.clone().settle(&report(&[])).expect_err("nothing runs it");
    assert!(why.code == BuildCode::DependencyMissing && why.message.contains("gunicorn or flask"), "{why:?}");
    for odd in [
        "https://example.org/flask-3.1.0.tar.gz",
        "file:///etc/flask-3.1.0-py3-none-any.whl",
        "https://example.org/a b-1-py3-none-any.whl",
    ] {
        let why = recipe.clone().settle(&report(&[("flask", "3.1.0", odd)])).expect_err("it is refused").message;
        assert!(why.contains("is no wheel with a hash"), "{why}");
    }
    assert!(recipe.settle("{}").expect_err("no answer").message.contains("cannot be read"));
}

#[test]
fn python_is_built_with_what_its_lock_names() {
    let project = "[project]\nname = \"web\"\nrequires-python = \">=3.11,<3.13\"\ndependencies = [\"a_b[x]>=1\"]\n";
    let sum = "0a".repeat(32);
    let lock = format!(
        "version = 1\n[[package]]\nname = \"web\"\nversion = \"0\"\nsource = {{ virtual = \".\" }}\n\
         [[package]]\nname = \"a-b\"\nversion = \"1.0\"\nsource = {{ registry = \"https://example.org/simple\" }}\n\
         wheels = [{{ url = \"https://example.org/w\", hash = \"sha256:{sum}\" }}]\n\
         [[package]]\nname = \"c\"\nversion = \"1\"\nresolution-markers = [\"python_full_version < '3.12'\", \"os_name == 'nt'\"]\n\
         [[package]]\nname = \"c\"\nversion = \"2\"\n"
    );
    let files = [("pyproject.toml", project), ("uv.lock", lock.as_str()), ("main.py", "")];
    let recipe = made(BuildStrategy::AutoPython, &files).expect("a recipe");
    let lookup = recipe.lookup.clone().expect("pip is asked");
    assert_eq!(lookup.requirements, ["a_b[x]>=1"]);
    assert_eq!(lookup.constraints, ["a-b==1.0", "c==1 ; (python_full_version < '3.12') or (os_name == 'nt')"]);
    assert!(recipe.is_locked());
    let first = plan_of(&recipe);
    assert_eq!(first["toolchains"], json!(["python312", "python311", "python3"]));
    let wheel = ("A.B", "1.0", "https://example.org/a_b-1.0-py3-none-any.whl");
    let plan = plan_of(&recipe.clone().settle(&report(&[wheel])).expect("settles"));
    assert_eq!(plan["start"], json!("python ./main.py"));
    for other in [("a-b", "1.1", wheel.2), ("d", "1.0", wheel.2), ("c", "1", wheel.2)] {
        let why = recipe.clone().settle(&report(&[other])).expect_err("it is not locked").message;
        assert!(why.contains("uv.lock is not of this pyproject.toml") && why.contains(other.1), "{why}");
    }
    // Poetry's says the same in other words.
    let project = "[tool.poetry.dependencies]\npython = \"^3.11\"\na = {version = \"^1\", extras = [\"x\"], markers = \"os_name == 'posix'\", python = \"<3.12\"}\nb = {version = \"1\", optional = true}\n";
    let lock = format!(
        "[[package]]\nname = \"A\"\nversion = \"1.0\"\nfiles = [{{ file = \"a.whl\", hash = \"sha256:{sum}\" }}]\n"
    );
    let files = [("pyproject.toml", project), ("poetry.lock", lock.as_str()), ("main.py", "")];
    let lookup = made(BuildStrategy::AutoPython, &files).expect("a recipe").lookup.expect("pip is asked");
    assert_eq!(
        (lookup.requirements, lookup.constraints),
        (vec!["a[x] ; (os_name == 'posix') and python_full_version < '3.12'".to_owned()], vec!["a==1.0".to_owned()])
    );
}

#[test]
fn what_is_not_of_the_index_is_said_by_name() {
    let said = |files: &[(&str, &str)]| {
        let why = made(BuildStrategy::AutoPython, &[files, &[("main.py", "")]].concat()).expect_err("it is refused");
        (why.code, why.message)
    };
    let requirements = |line: &str| said(&[("requirements.txt", line)]);
    for (line, words) in [
        ("a @ https://example.org/a.whl", "fetched from elsewhere"),
        ("git+https://example.org/a", "fetched from elsewhere"),
        ("./own", "names no package"),
        ("evil --no-binary evil", "with an option"),
        ("-e ./own", "does not do"),
        ("--index-url https://example.org/simple", "does not do"),
        ("--extra-index-url=https://example.org/simple", "does not do"),
    ] {
        let (code, message) = requirements(line);
        assert!(code == BuildCode::UnsupportedLanguage && message.contains(words), "{line}: {message}");
    }
    assert!(requirements("-r ../../etc/passwd").1.contains("outside of the source"));
    assert!(requirements("-r other.txt").1.contains("there is no \"other.txt\""));
    let project = ("pyproject.toml", "[project]\nname = \"web\"\n");
    let locked = |lock: &str| said(&[project, ("uv.lock", lock)]);
    assert!(locked("[[package").1.contains("uv.lock cannot be read"));
    let git = "[[package]]\nname = \"a\"\nversion = \"1\"\nsource = { git = \"https://example.org/a#1\" }\n";
    let (code, message) = locked(git);
    assert!(
        code == BuildCode::UnsupportedLanguage
            && message.contains("\"a\", which is not from the usual index (\"git\")"),
        "{message}"
    );
    let poetry = ("pyproject.toml", "[tool.poetry]\nname = \"web\"\n");
    let (code, message) = said(&[poetry]);
    assert!(code == BuildCode::DependencyMissing && message.contains("there is no poetry.lock"), "{message}");
    let (code, message) = said(&[("setup.py", "")]);
    assert!(code == BuildCode::UnsupportedLanguage && message.contains("setup.py"), "{message}");
    let nothing = made(BuildStrategy::AutoPython, &[("requirements.txt", "")]).expect_err("nothing runs").message;
    assert!(nothing.contains("nothing says what to run"), "{nothing}");
}

#[test]
fn what_runs_of_python_is_what_serves() {
    let start = |files: &[(&str, &str)], wheels: &[&str]| {
        let recipe = made(BuildStrategy::AutoPython, files).map_err(|why| why.message)?;
        let urls: Vec<String> =
            wheels.iter().map(|it| format!("https://example.org/{it}-1-py3-none-any.whl")).collect();
        let wheels: Vec<_> = wheels.iter().zip(&urls).map(|(name, url)| (*name, "1", url.as_str())).collect();
        let settled = recipe.settle(&report(&wheels)).map_err(|why| why.message)?;
        Ok::<_, String>(plan_of(&settled)["start"].as_str().expect("a command").to_owned())
    };
    let django = [
        ("requirements.txt", "--requirement=./requirements/base.txt\n"),
        ("requirements/base.txt", "Django\n"),
        ("manage.py", "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings.production')\n"),
        ("config/settings/production.py", ""),
        ("config/wsgi.py", ""),
    ];
    assert_eq!(start(&django, &["django", "gunicorn"]).as_deref(), Ok("gunicorn config.wsgi"));
    assert!(start(&django, &["django"]).expect("its own").starts_with("python ./manage.py runserver"));
    let fastapi = [("requirements.txt", "\u{feff}fastapi\n"), ("app/main.py", "app = FastAPI()\n")];
    assert!(start(&fastapi, &["fastapi", "uvicorn"]).expect("uvicorn").starts_with("uvicorn app.main:app "));
    let why = start(&fastapi, &["fastapi"]).expect_err("nothing serves");
    assert!(why.contains("it is run by uvicorn"), "{why}");
    // Run as a program, it would end at once.
    let why = start(&[("requirements.txt", "flask\n"), ("wsgi.py", "app = create_app()\n")], &["flask"]);
    assert!(why.as_ref().is_err_and(|why| why.contains("nothing says what to run")), "{why:?}");
    let script = [("pyproject.toml", "[project]\nname = \"w\"\n[project.scripts]\nserve = \"w.main:run\"\n")];
    assert_eq!(start(&script, &[]).as_deref(), Ok("python -c 'import sys; from w.main import run; sys.exit(run())'"));
}

#[test]
fn what_the_source_itself_needs_is_not_forgotten() {
    let needs = |project: &str, requirements: &[(&str, &str)]| {
        let files = [&[("pyproject.toml", project), ("main.py", "")], requirements].concat();
        made(BuildStrategy::AutoPython, &files)
            .map(|recipe| recipe.lookup.expect("pip is asked").requirements)
            .map_err(|why| why.message)
    };
    let project = "[project]\nname = \"w\"\ndependencies = [\"a\"]\n";
    let editable = [("requirements.txt", "-e .\nb\n")];
    assert_eq!(needs(project, &editable), Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(needs(project, &[]), Ok(vec!["a".to_owned()]));
    for (project, words) in [
        ("[project]\nname = \"w\"\ndynamic = [\"dependencies\"]\n", "is said by a program"),
        ("[build-system]\nrequires = [\"setuptools\"]\n", "is said by a program"),
        // Somebody else's of that name would be taken.
        (
            "[project]\nname = \"w\"\ndependencies = [\"a\"]\n[tool.uv.sources]\na = { workspace = true }\n",
            "there is no uv.lock",
        ),
    ] {
        let why = needs(project, &editable).expect_err("it is refused");
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_python_is_looked_for_that_fits() {
    let names = |said: &str| {
        let project = format!("[project]\nname = \"web\"\nrequires-python = \"{said}\"\n");
        let recipe =
            made(BuildStrategy::AutoPython, &[("pyproject.toml", &project), ("main.py", "")]).expect("a recipe");
        let names = plan_of(&recipe)["toolchains"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>();
        (names.join(" "), recipe.warning(&toolchain("3.11.7")).is_some())
    };
    let is = |names: &str, warns: bool| (names.to_owned(), warns);
    assert_eq!(names(">=3.9"), is("python3", false));
    assert_eq!(names(">=3.12"), is("python3", true));
    assert_eq!(names("^3.10"), is("python3", false));
    assert_eq!(names("==3.11.*"), is("python311 python3", false));
    assert_eq!(names("3.12"), is("python312 python3", true));
    assert_eq!(names(">=3.10,<3.12"), is("python311 python310 python3", false));
    assert_eq!(names("<3.10"), is("python39 python38 python3", true));
    assert_eq!(names("!=3.9.0"), is("python3", false));
    assert_eq!(names("~3.11"), is("python311 python3", false));
    assert_eq!(names("~=3.10.2"), is("python310 python3", true));
    assert_eq!(names("~=3.10"), is("python3", false));
    assert_eq!(names("what"), is("python3", false));
}
