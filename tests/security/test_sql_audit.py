"""No value is ever written into SQL: read from the source, statement by statement and call by call.

A statement is a block of a .sql file or a constant. What is put into its {placeholders} is one of the fragments below,
made of constants, identifiers that psycopg quotes, and parameters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from recsvc.storage import candidates, statements

_ROOT = Path(statements.__file__).parents[1]
_SQL_FILES = sorted((_ROOT / "storage" / "sql").glob("*.sql"))
_STATEMENTS = {f"{file.stem}.{name}": text for file in _SQL_FILES for name, text in statements.load(file.stem).items()}
_FRAGMENTS = {
    # Conditions of the filter compiler, of keyset paging, of eligibility: constants, columns and parameters.
    *("filter", "after", "order", "eligible", "boost", "category"),
    # Identifiers and numbers, which psycopg quotes.
    *("trend", "partition", "table", "dimension", "shard", "m", "ef_construction", "ef_search"),
    # Another block, or the temporary table that stands for it.
    "source",
}
# The argument that holds the statement, by the name of the function.
_RUNNERS = {"execute": 0, "executemany": 0, "stream": 0, "copy": 0, "fetch_all": 1, "fetch_one": 1, "compose": 0}
# Functions that hand on a statement which their caller had to have from one of the sources below.
_HANDED_ON = {
    ("storage/database.py", "_as_query(query)"): "the statements of execute and fetch_all, each of which is read here",
    ("storage/database.py", "setting"): "composed by the callers, each of which is read here",
    ("storage/database.py", "query"): "the same, within fetch_one",
    ("storage/database.py", "enter"): "one of two constants of this module",
    ("storage/api_keys.py", "statement"): "a block, given by rotate and revoke",
    ("storage/replicas.py", "statement"): "one of two constants of this module",
    ("storage/replicas.py", "query"): "composed by the callers of its fetch_all, each of which is read here",
    ("storage/listing.py", "statement"): "a block, given by the callers of fetch_page, each of which is read here",
    ("storage/statements.py", "statement"): "compose itself; its callers are read here",
    ("storage/traced_cursors.py", "query"): "what a cursor of psycopg is asked for, by callers that are read here",
    ("storage/traced_cursors.py", "statement"): "the same for COPY",
    ("storage/migrator.py", "migration.script.encode()"): "a file of this package, checked against its checksum",
}
_TRUSTED_TEXT = {
    ("storage/filter_sql.py", "_OPERATORS[operator]"): "constants by the operator that the parser made",
    ("storage/filter_sql.py", "flipped"): "one of four constants, or the operator that the parser made",
    ("storage/filter_sql.py", "self._columns[field_.name]"): "our columns by the fields that the parser knows",
    ("storage/filter_sql.py", "cast_to"): "LiteralString, which mypy holds",
    ("storage/keyset.py", "columns[order.field]"): "our columns by the fields that a list can be ordered by",
    ("storage/statements.py", "statement"): "compose itself",
}


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(_ROOT.rglob("*.py")):
        if "gen" not in file.relative_to(_ROOT).parts:
            yield str(file.relative_to(_ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def complaints(path: str, tree: ast.Module) -> list[str]:
    """Calls that run or compose SQL which is neither a constant nor a block of a .sql file."""
    composed = _names_of_statements(tree)
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name == "SQL" and not _is_constant(call.args[0]) and (path, ast.unparse(call.args[0])) not in _TRUSTED_TEXT:
            found.append(f"{path}:{call.lineno}: sql.SQL({ast.unparse(call.args[0])})")
        if (argument := _statement_of(call, name)) is None:
            continue
        text = ast.unparse(argument)
        if not _is_constant(argument) and text not in composed and (path, text) not in _HANDED_ON:
            found.append(f"{path}:{call.lineno}: {name}({text})")
    return found


def _statement_of(call: ast.Call, name: str) -> ast.expr | None:
    if name == "fetch_page":
        return call.args[2]
    position = 1 if name == "execute" and isinstance(call.func, ast.Name) else _RUNNERS.get(name)
    # `copy()` without arguments copies arrays.
    return None if position is None or position >= len(call.args) else call.args[position]


def _is_constant(node: ast.expr) -> bool:
    """A constant, a block, or one of several of them."""
    match node:
        case ast.Constant(value=str() | bytes()):
            return True
        case ast.Subscript(value=ast.Name(id="_SQL")):
            return True
        case ast.IfExp(body=body, orelse=other):
            return _is_constant(body) and _is_constant(other)
        case ast.Call(func=ast.Attribute(value=inner, attr="encode" | "rstrip"), args=arguments):
            return _is_constant(inner) and all(isinstance(argument, ast.Constant) for argument in arguments)
        case ast.Call(func=ast.Name(id="compose")):
            return True
    return False


def _names_of_statements(tree: ast.Module) -> set[str]:
    """Names that are bound, wherever they are, to nothing but constants and compositions."""
    bound: dict[str, list[bool]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            bound.setdefault(node.targets[0].id, []).append(_is_constant(node.value))
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            bound.setdefault(node.target.id, []).append(False)
    return {name for name, constant in bound.items() if all(constant)}


def test_no_call_runs_sql_that_is_neither_constant_nor_a_block():
    assert [complaint for path, tree in _sources() for complaint in complaints(path, tree)] == []


@pytest.mark.parametrize(
    "source",
    [
        'connection.execute(f"SELECT {name}")',
        'connection.execute("SELECT %s" % name)',
        'connection.execute("SELECT " + name)',
        'connection.execute("SELECT {}".format(name))',
        'connection.execute(_SQL["get"] + name)',
        "connection.execute(text)",
        'text = "SELECT "\ntext += name\nconnection.execute(text)',
        'execute(connection, f"SELECT {name}", {})',
        'database.fetch_all(tenant_key, f"SELECT {name}", {})',
        'cursor.copy(f"COPY {name} FROM STDIN")',
        'fetch_page(database, tenant_key, f"SELECT {name}", columns, question)',
        'compose(f"SELECT {name}", filter=condition)',
        "sql.SQL(name)",
        'sql.SQL("SELECT " + name).format(x)',
    ],
)
def test_the_audit_finds_a_value_in_sql(source: str):
    assert complaints("storage/new.py", ast.parse(source))


def test_no_exception_of_the_audit_is_out_of_date():
    used = {
        (path, ast.unparse(node)) for path, tree in _sources() for node in ast.walk(tree) if isinstance(node, ast.expr)
    }
    assert not (_HANDED_ON.keys() | _TRUSTED_TEXT.keys()) - used


def test_placeholders_of_statements_are_from_the_closed_set():
    placeholders = {name for text in _STATEMENTS.values() for name in re.findall(r"\{([a-z]\w*)\}", text)}
    assert placeholders == _FRAGMENTS


def _fragments() -> Iterator[tuple[str, str, str]]:
    for path, tree in _sources():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "compose":
                yield from ((path, str(keyword.arg), ast.unparse(keyword.value)) for keyword in call.keywords)


def test_what_is_put_into_placeholders_is_made_of_constants_identifiers_and_parameters():
    conditions = {"filter", "eligible", "boost", "category"}
    for path, name, value in _fragments():
        if name in conditions:
            assert value.endswith(".condition"), (path, name, value)
        elif name in ("after", "order"):
            assert value == "beyond" or value.startswith("order_clause("), (path, name, value)
        elif value not in ("partition", "_partition(shard)"):
            assert re.match(r"sql\.(Identifier|Literal)\(|sql\.SQL\((_SQL\['|')", value), (path, name, value)


def test_identifiers_come_from_closed_sets():
    assert set(get_args(get_type_hints(candidates.CandidateQuestion)["trend"])) == {"trend_day", "trend_week"}
    for hostile in ('categories"; DROP TABLE items; --', "i.item_id) --", 'attributes.x"; --', "", "attributes."):
        compiled = candidates.category_expression(hostile)
        assert hostile not in compiled.condition.as_string() or not hostile
        assert set(compiled.params) == {"category_key"}
    identifiers = {
        (path, ast.unparse(node.args[0]))
        for path, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sql.Identifier"
    }
    assert identifiers == {
        ("storage/candidates.py", "question.trend"),
        # Below a match on "categories" | "tags".
        ("storage/candidates.py", "category_field"),
        ("storage/models.py", "'item_factors'"),
        # Of a shard's number, which the database gave.
        ("storage/models.py", "f'item_factors_{shard}'"),
        ("storage/tenants.py", "partition"),
    }


def test_what_is_copied_without_row_level_security_cannot_say_whose_it_is():
    copied = {name: text for name, text in _STATEMENTS.items() if name.startswith("event_copy.") and "COPY" in text}
    assert len(copied) == 3
    assert [name for name, text in copied.items() if "tenant_key" in text or "{" in text] == []


def test_requests_leave_their_role_for_copying_events_only():
    leaving = {name for name, text in _STATEMENTS.items() if re.search(r"'role', 'none'|RESET ROLE", text)}
    users = {path for path, tree in _sources() if "leave_role" in ast.unparse(tree)}
    assert (leaving, users) == ({"event_copy.leave_role"}, {"storage/event_copy.py"})


def test_no_statement_runs_text_as_sql():
    dynamic = re.compile(r"\bEXECUTE\b|\bquery_to_xml\b|\bdblink")
    assert [name for name, text in _STATEMENTS.items() if dynamic.search(text)] == []


_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(?P<name>\w+) \((?P<columns>.*?)\n\)", re.DOTALL)
_TENANT_TABLES = {
    table["name"]
    for file in (_ROOT / "storage" / "migrations").glob("*.sql")
    for table in _TABLE.finditer(file.read_text(encoding="utf-8"))
    if re.search(r"^\s*tenant_key ", table["columns"], re.MULTILINE)
}
_READ = re.compile(
    rf"\b(?:FROM|JOIN|UPDATE|USING)\s+(?:ONLY )?(?P<table>{'|'.join(_TENANT_TABLES)})\b"
    r"(?:\s+(?:AS )?(?P<alias>[a-z]\w*))?"
)
_INSERTED = re.compile(rf"\bINSERT INTO (?P<table>{'|'.join(_TENANT_TABLES)})\b(?: AS \w+)?\s*\((?P<columns>[^)]*)\)")
_OVER_ALL_TENANTS = {
    "api_keys.find_key": "authentication: the key tells the tenant",
    "api_keys.insert_bootstrap_key": "administration, by the tenant's id",
    "api_keys.note_use": "authentication, by the key's own id",
    "audit_log.append_entry": "of the tenant that acted, and of the service where there is none",
    "audit_log.delete_old_entries": "a worker deletes what is old, of all tenants at once",
    "audit_log.list_entries": "administration: of one tenant or of all",
    "events.delete_expired": "a worker deletes what each tenant no longer keeps, of all tenants at once",
    "content.tenants_with_due_items": "a worker asks whose turn it is",
    "item_counters.take_signals": "a worker adds up what waits, of all tenants at once",
    "shown.delete_old_shown": "a worker deletes what is old, of all tenants at once",
    "statistics.model_ages": "a metric over all tenants",
    "statistics.runs_under_way": "a metric over all tenants",
    "tenants.create_tenant": "administration, by the tenant's id",
    "tenants.get_tenant": "administration, by the tenant's id",
    "tenants.list_tenants": "administration: the list of tenants",
    "tenants.update_tenant": "administration, by the tenant's id",
    "tenants.lock_tenant": "administration, by the tenant's id",
    "tenants.delete_tenant": "administration, by the tenant's id",
    "tenants.recent_versions": "caches learn of changes, of all tenants at once",
    "user_states.take_dirty_users": "a worker asks which users to fold in",
    "user_states.lag": "a metric over all tenants",
    "user_states.states_of_other_models": "a worker asks which users to fold in",
}


def _unbound(text: str) -> Iterator[str]:
    """Tables of tenants that the statement touches without saying whose rows."""
    by_itself = re.search(r"(?<![\w.])tenant_key = %\(tenant\)s", text) or "USING (tenant_key" in text
    for read in _READ.finditer(text):
        if not by_itself and not re.search(rf"\b{read['alias'] or read['table']}\.tenant_key = ", text):
            yield read["table"]
    for inserted in _INSERTED.finditer(text):
        if "tenant_key" not in inserted["columns"]:
            yield inserted["table"]
    if (_READ.search(text) or _INSERTED.search(text)) and "%(tenant)s" not in text:
        yield "no parameter"


@pytest.mark.parametrize("name", _STATEMENTS)
def test_a_statement_says_whose_rows_it_touches_unless_it_is_meant_for_all(name: str):
    assert bool(list(_unbound(_STATEMENTS[name]))) == (name in _OVER_ALL_TENANTS)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM items WHERE item_id = %(item_id)s",
        "SELECT * FROM items i JOIN events e USING (item_key) WHERE i.tenant_key = %(tenant)s",
        "UPDATE user_state s SET version = 1 WHERE s.user_key = %(user)s AND %(tenant)s > 0",
        "INSERT INTO users (user_id) VALUES (%(user_id)s) RETURNING %(tenant)s",
        "DELETE FROM events e USING items i WHERE i.tenant_key = %(tenant)s AND e.item_key = i.item_key",
    ],
)
def test_the_audit_finds_a_table_without_its_tenant(text: str):
    assert list(_unbound(text))


def test_the_audit_knows_the_tables_of_tenants():
    assert {"items", "users", "events", "api_keys", "tenants", "user_state", "item_factors"} <= _TENANT_TABLES
