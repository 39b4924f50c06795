"""Every command, query, link, price and error line of the README and docs/ is checked; what can run here is run."""

import ast
import re
import subprocess

import pages
import priced
import pytest
from google.api_core.exceptions import BadRequest

from pipeline import errors, options
from pipeline.bigquery.query import Query, run
from pipeline.commands import demo, report, subscribe
from pipeline.options import EvaluateOptions, Options, TuningOptions
from pipeline.report.words import ADVICE
from pipeline.rows import Reason
from pipeline.task import builtin_names

KINDS = {"evaluate": EvaluateOptions, "export_tuning": TuningOptions, "report": report.ReportOptions}
INPUT_NEEDED = {"classify", "plan", "doctor", "evaluate", "export_tuning"}
OTHERS = {"gcloud", "bq", "curl", "pip", "."}  # nothing of ours to check in those
COMMANDS = pages.commands()
OURS = [command for command in COMMANDS if command.name]
OPERATIONS = (pages.ROOT / "docs" / "operations.md").read_text("utf-8")
COSTS = (pages.ROOT / "docs" / "costs.md").read_text("utf-8")


def test_there_are_no_other_commands_than_these():
    assert len(OURS) > 20
    assert {command.words[0] for command in COMMANDS} <= {"python", "make", *OTHERS}


@pytest.mark.parametrize("command", OURS, ids=str)
def test_the_flags_of_a_command_are_read_by_its_own_parser(command):
    if command.name == "subscribe":
        subscribe._parser().parse_args([*command.flags, *([] if command.is_whole else ["--customer_id=x"])])
        return
    if command.name in ("tasks", "demo"):
        return  # those are run, see below
    flags = [word for word in command.flags if not word.startswith("--sample=")]
    kind = KINDS.get(command.name, Options)
    given, rest = options.parse(flags, kind)
    if rest:
        from pipeline import submit

        submit.beam_options(flags, given)
    if command.is_whole:
        assert given.project and given.output_table
        assert (command.name in INPUT_NEEDED) == bool(given.input_table or given.input_query)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.words[0] == "make"], ids=str)
def test_a_make_target_exists_and_takes_these_variables(command):
    target, given = command.words[1], command.words[2:]
    done = subprocess.run(
        ["make", "-n", *command.words[1:]], cwd=pages.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{target}: {done.stderr}"
    makefiles = "".join((pages.ROOT / name).read_text("utf-8") for name in ("Makefile", "templates/template.mk"))
    for word in given:
        assert re.search(rf"\$[({{]{word.partition('=')[0]}\b", makefiles), word


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link


@pytest.fixture
def shop(sampled, tmp_path, monkeypatch):
    """A test's cloud in the place of `my-project`; files are written to a folder of its own."""
    monkeypatch.chdir(tmp_path)
    names = {
        "my-project.imagery_insights___us.latest_observations": sampled.input,
        "my-project.signs.answers": sampled.output,
        "my-project.photos.list": f"{sampled.dataset}.list",
        "--project=my-project": f"--project={sampled.endpoint.project}",
    }
    sql = f"CREATE TABLE `{sampled.dataset}.list` AS SELECT observation_id AS id, 'a/b.jpg' AS path FROM `{sampled.input}`"
    run(sampled.endpoint, Query(sql))

    def translated(text):
        for theirs, ours in names.items():
            text = text.replace(theirs, ours)
        return text

    sampled.translated = translated
    return sampled


def test_a_newcomer_s_commands_run_in_their_order_and_so_do_the_queries(shop):
    """Those that are whole and need no other service; doctor's example is one of a failure, so its text is not compared."""
    from pipeline import __main__

    ran = []
    order = ("README.md", "own_project.md", "operations.md")
    for command in sorted((each for each in OURS if each.page in order), key=lambda each: order.index(each.page)):
        if not command.is_whole or command.name == "subscribe":
            continue
        flags = [shop.translated(flag) for flag in command.flags]
        if any(flag.startswith("--run_id=") for flag in flags):
            newest = shop.query("SELECT run_id FROM `{answers}_runs` ORDER BY `at` DESC LIMIT 1")[0]["run_id"]
            flags = [f"--run_id={newest}" if flag.startswith("--run_id=") else flag for flag in flags]
        services = shop.services[1:] if command.name not in ("audit", "report") else shop.services[1:3]
        assert __main__.main([command.name, *flags, *services]) == 0, str(command)
        ran.append(command.name)
    assert set(ran) == {"classify", "plan", "doctor", "report", "audit"}
    assert len(ran) >= 8
    for page, sql in pages.blocks("sql"):
        for row in run(shop.endpoint, Query(shop.translated(sql))):
            assert row.get("said", "all well") == "all well", page
    sums_know_what_failures_cost(shop)


def sums_know_what_failures_cost(shop):
    """Where one failed row has cost $60, every query of money tells."""
    shop.query(
        """INSERT INTO `{answers}_failures` (key, task, fingerprint, reason, model, cost_usd, failed_at)
        SELECT key, task, fingerprint, 'blocked', model, 60.0, CURRENT_TIMESTAMP() FROM `{answers}` LIMIT 1"""
    )
    (mine,) = shop.query("SELECT fingerprint FROM `{answers}_failures` WHERE cost_usd = 60.0")
    (whole,) = shop.query(
        """SELECT SUM(cost_usd) AS usd FROM (SELECT fingerprint, cost_usd FROM `{answers}`
        UNION ALL SELECT fingerprint, cost_usd FROM `{answers}_failures`) WHERE fingerprint = @fingerprint""",
        **mine,
    )
    sums = [shop.translated(sql) for _, sql in pages.blocks("sql") if "cost_usd" in sql]
    (alarm,) = (sql for sql in sums if "ERROR(" in sql)
    with pytest.raises(BadRequest, match=re.escape("more than $50 in a day")):
        run(shop.endpoint, Query(alarm))
    (by_day,) = (sql.replace("ad3f0b9fb93c5786", mine["fingerprint"]) for sql in sums if "ERROR(" not in sql)
    assert sum(row["usd"] or 0.0 for row in run(shop.endpoint, Query(by_day))) == pytest.approx(whole["usd"])


def test_the_demo_shows_ten_answers_and_writes_a_report(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_PICTURES", 40)
    assert demo.main([]) == 0
    out = capsys.readouterr().out
    assert "Ten answers" in out
    assert "failed 7 (already answered 0)" in out
    assert "Imagery © Google" in (tmp_path / "demo_report.html").read_text("utf-8")


def test_the_tables_of_costs_are_those_of_the_price_table():
    tables = list(priced.tables())
    for table in tables:
        assert table in COSTS
    assert COSTS.count("\n| --- ") == len(tables), "no other table has figures"
    assert f"on {priced.DAY:%Y-%m-%d}" in COSTS
    low, *_, high = sorted(priced.usd(priced.asked(task), rows=1000) for task in builtin_names())
    assert f"${low:.1f} to ${high:.1f} for 1,000 images" in " ".join(pages.PAGES[0].read_text("utf-8").split())


def test_operations_know_every_exit_code_and_every_reason():
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    for code in {0, 3} | {each.exit_code for each in kinds}:
        assert f"\n| {code} | " in OPERATIONS
    for reason in Reason:
        again = "yes" if reason.retryable else "no"
        assert f"\n| `{reason}` | {again} | {ADVICE[reason]} |" in OPERATIONS


def said_by_the_code():
    """Every text in the source, with a mark where a value stands."""
    for path in (pages.ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_operations_quote_lines_that_are_printed():
    section = OPERATIONS.partition("## By the line that is printed")[2].partition("\n## ")[0]
    quoted = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)))
    assert len(quoted) > 20
    texts = list(said_by_the_code())
    unknown = [each for each in quoted if not any(all(part in text for part in each.split(" ... ")) for text in texts)]
    assert unknown == []
