package catalogue

import (
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/oid"
)

// row is one row of a relation: columns by name; what is missing is NULL.
type row map[string]any

// fillers make the rows of the relations that are not empty. Those that are
// not named here are.
var fillers = map[string]func(*facts, func(row)){
	"pg_am":         fillAM,
	"pg_attrdef":    fillAttrdef,
	"pg_attribute":  fillAttribute,
	"pg_authid":     fillRoles,
	"pg_class":      fillClass,
	"pg_collation":  fillCollation,
	"pg_constraint": fillConstraint,
	"pg_database":   fillDatabase,
	"pg_index":      fillIndex,
	"pg_indexes":    fillIndexes,
	"pg_language":   fillLanguage,
	"pg_namespace":  fillNamespace,
	"pg_roles":      fillRoles,
	"pg_tables":     fillTables,
	"pg_tablespace": fillTablespace,
	"pg_trigger":    fillTrigger,
	"pg_type":       fillType,
	"pg_user":       fillUser,
	"pg_views":      fillViews,

	"information_schema_columns":                 fillInfoColumns,
	"information_schema_constraint_column_usage": fillInfoConstraintColumns,
	"information_schema_key_column_usage":        fillInfoKeyColumns,
	"information_schema_referential_constraints": fillInfoReferential,
	"information_schema_schemata":                fillInfoSchemata,
	"information_schema_table_constraints":       fillInfoConstraints,
	"information_schema_tables":                  fillInfoTables,
	"information_schema_triggers":                fillInfoTriggers,
	"information_schema_views":                   fillInfoViews,

	"skein_name": fillNames,
}

// value turns what a filler writes into a value.
func value(v any) base.Value {
	switch v := v.(type) {
	case string:
		return base.TextValue(v)
	case int:
		return base.IntValue(int64(v))
	case uint32:
		return base.IntValue(int64(v))
	case bool:
		if v {
			return base.IntValue(1)
		}
		return base.IntValue(0)
	}
	return base.Value{}
}

// vector writes an int2vector.
func vector(n []int) string {
	var words []string
	for _, v := range n {
		words = append(words, strconv.Itoa(v))
	}
	return strings.Join(words, " ")
}

// array writes an array of integers.
func array(n []int) any {
	if n == nil {
		return nil
	}
	return "{" + strings.ReplaceAll(vector(n), " ", ",") + "}"
}

func fillAM(_ *facts, add func(row)) {
	add(row{"oid": amHeap, "amname": "heap", "amhandler": "heap_tableam_handler", "amtype": "t"})
	add(row{"oid": amBTree, "amname": "btree", "amhandler": "bthandler", "amtype": "i"})
}

func fillNamespace(_ *facts, add func(row)) {
	add(row{"oid": schemaCatalog, "nspname": "pg_catalog", "nspowner": firstUser})
	add(row{"oid": schemaPublic, "nspname": "public", "nspowner": firstUser})
	add(row{"oid": schemaInfo, "nspname": informationSchema, "nspowner": firstUser})
}

func fillCollation(_ *facts, add func(row)) {
	for i, name := range []string{"default", "C", "POSIX"} {
		add(row{"oid": []int{100, 950, 951}[i], "collname": name, "collnamespace": schemaCatalog, "collowner": firstUser,
			"collprovider": []string{"d", "c", "c"}[i], "collisdeterministic": true, "collencoding": -1})
	}
}

func fillLanguage(_ *facts, add func(row)) {
	add(row{"oid": 14, "lanname": "sql", "lanowner": firstUser, "lanispl": false, "lanpltrusted": true})
}

func fillTablespace(_ *facts, add func(row)) {
	add(row{"oid": 1663, "spcname": "pg_default", "spcowner": firstUser})
}

// roles yields the role that owns everything, and the users.
func (f *facts) roles(add func(oid int, name string)) {
	add(firstUser, owner)
	for i, u := range f.users {
		if u != owner {
			add(firstObject+i, u)
		}
	}
}

// owner is the role that every object belongs to.
const owner = "skein"

func fillRoles(f *facts, add func(row)) {
	f.roles(func(oid int, name string) {
		super := name == owner
		add(row{"oid": oid, "rolname": name, "rolsuper": super, "rolinherit": true, "rolcreaterole": super, "rolcreatedb": super,
			"rolcanlogin": !super, "rolreplication": false, "rolbypassrls": false, "rolconnlimit": -1, "rolpassword": "********"})
	})
}

func fillUser(f *facts, add func(row)) {
	for i, u := range f.users {
		add(row{"usename": u, "usesysid": firstObject + i, "usecreatedb": false, "usesuper": false, "userepl": false,
			"usebypassrls": false, "passwd": "********"})
	}
}

func fillDatabase(f *facts, add func(row)) {
	for i, d := range f.databases {
		add(row{"oid": firstDatabase + i, "datname": d, "datdba": firstUser, "encoding": 6, "datlocprovider": "c", "datistemplate": false,
			"datallowconn": true, "datconnlimit": -1, "dattablespace": 1663, "datcollate": "C", "datctype": "C"})
	}
}

func fillType(_ *facts, add func(row)) {
	for _, t := range basicTypes {
		kind := "b"
		if t.kind != "" {
			kind = t.kind
		}
		size := oid.Size(t.oid)
		add(row{"oid": t.oid, "typname": t.name, "typnamespace": schemaCatalog, "typowner": firstUser, "typlen": size,
			"typbyval": size > 0 && size <= 8, "typtype": kind, "typcategory": t.category, "typispreferred": false, "typisdefined": true,
			"typdelim": ",", "typrelid": 0, "typelem": t.elem, "typarray": t.array, "typinput": t.name + "in", "typoutput": t.name + "out",
			"typreceive": t.name + "recv", "typsend": t.name + "send", "typalign": "i", "typstorage": "p", "typnotnull": false,
			"typbasetype": 0, "typtypmod": -1, "typndims": 0, "typcollation": collation(t.oid)})
	}
}

func collation(typ uint32) int {
	switch typ {
	case oid.Text, oid.Varchar, oid.BPChar:
		return 100
	case oid.Name:
		return 950
	}
	return 0
}

func fillClass(f *facts, add func(row)) {
	class := func(id uint32, name, kind string, am int) row {
		return row{"oid": id, "relname": name, "relnamespace": schemaPublic, "reltype": 0, "reloftype": 0, "relowner": firstUser,
			"relam": am, "relfilenode": id, "reltablespace": 0, "relpages": 0, "reltuples": -1, "relallvisible": 0, "reltoastrelid": 0,
			"relhasindex": false, "relisshared": false, "relpersistence": "p", "relkind": kind, "relnatts": 0, "relchecks": 0,
			"relhasrules": kind == "v", "relhastriggers": false, "relhassubclass": false, "relrowsecurity": false,
			"relforcerowsecurity": false, "relispopulated": true, "relreplident": "d", "relispartition": false, "relrewrite": 0}
	}
	for _, t := range f.tables {
		r := class(t.oid, t.name, "r", amHeap)
		if t.view {
			r = class(t.oid, t.name, "v", 0)
		}
		r["relnatts"], r["relhasindex"], r["relhastriggers"] = len(t.columns), len(t.indexes) > 0, len(t.triggers) > 0 || t.references(f)
		r["relchecks"] = t.count("c")
		add(r)
		for _, i := range t.indexes {
			r := class(i.oid, i.name, "i", amBTree)
			r["relnatts"] = len(i.columns)
			add(r)
		}
	}
	for n, relation := range systemRelations {
		r := class(uint32(1000+n), relation, "r", amHeap)
		r["relnamespace"] = schemaCatalog
		add(r)
	}
}

// systemRelations are those that clients look up by name as 'x'::regclass.
var systemRelations = []string{"pg_class", "pg_type", "pg_proc", "pg_namespace", "pg_constraint", "pg_attribute", "pg_database", "pg_trigger", "pg_authid"}

// references says whether a foreign key starts or ends here; PostgreSQL keeps
// triggers for those.
func (t *table) references(f *facts) bool {
	for _, other := range f.tables {
		for _, c := range other.constraints {
			if c.kind == "f" && (c.table == t || other == t) {
				return true
			}
		}
	}
	return false
}

func (t *table) count(kind string) int {
	n := 0
	for _, c := range t.constraints {
		if c.kind == kind {
			n++
		}
	}
	return n
}

func fillAttribute(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.columns {
			identity, generated := "", ""
			if c.rowid {
				identity = "d"
			}
			if c.generated {
				generated = "s"
			}
			add(attribute(t.oid, c.number, c.name, c.typ, c.typmod, row{"attnotnull": c.notNull, "atthasdef": c.hasDef,
				"attidentity": identity, "attgenerated": generated}))
		}
		for _, i := range t.indexes {
			for n, c := range i.columns {
				typ, typmod, name := uint32(oid.Text), -1, c.name
				if c.number > 0 && c.number <= len(t.columns) {
					typ, typmod = t.columns[c.number-1].typ, t.columns[c.number-1].typmod
				} else {
					name = "expr"
				}
				add(attribute(i.oid, n+1, name, typ, typmod, row{}))
			}
		}
	}
}

func attribute(relation uint32, number int, name string, typ uint32, typmod int, more row) row {
	size := oid.Size(typ)
	storage := "p"
	if size < 0 {
		storage = "x"
	}
	r := row{"attrelid": relation, "attname": name, "atttypid": typ, "attstattarget": -1, "attlen": size, "attnum": number, "attndims": 0,
		"attcacheoff": -1, "atttypmod": typmod, "attbyval": size > 0 && size <= 8, "attalign": "i", "attstorage": storage, "attcompression": "",
		"attnotnull": false, "atthasdef": false, "atthasmissing": false, "attidentity": "", "attgenerated": "", "attisdropped": false,
		"attislocal": true, "attinhcount": 0, "attcollation": collation(typ)}
	for name, v := range more {
		r[name] = v
	}
	return r
}

func fillAttrdef(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.columns {
			if c.hasDef {
				add(row{"oid": t.oid + uint32(c.number)<<20, "adrelid": t.oid, "adnum": c.number, "adbin": c.def})
			}
		}
	}
}

func fillIndex(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, i := range t.indexes {
			var key, option, class []int
			expressions := false
			for _, c := range i.columns {
				key = append(key, c.number)
				expressions = expressions || c.number == 0
				class = append(class, 0)
				if c.desc {
					option = append(option, 3)
				} else {
					option = append(option, 0)
				}
			}
			r := row{"indexrelid": i.oid, "indrelid": t.oid, "indnatts": len(key), "indnkeyatts": len(key), "indisunique": i.unique,
				"indnullsnotdistinct": false, "indisprimary": i.origin == "pk", "indisexclusion": false, "indimmediate": true,
				"indisclustered": false, "indisvalid": true, "indcheckxmin": false, "indisready": true, "indislive": true,
				"indisreplident": false, "indkey": vector(key), "indcollation": vector(class), "indclass": vector(class), "indoption": vector(option)}
			if expressions {
				r["indexprs"] = indexTail(i.sql)
			}
			if i.partial {
				r["indpred"] = i.predicate()
			}
			add(r)
		}
	}
}

func fillConstraint(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.constraints {
			r := row{"oid": c.oid, "conname": c.name, "connamespace": schemaPublic, "contype": c.kind, "condeferrable": false,
				"condeferred": false, "convalidated": true, "conrelid": t.oid, "contypid": 0, "conindid": c.index, "conparentid": 0,
				"confrelid": 0, "confupdtype": " ", "confdeltype": " ", "confmatchtype": " ", "conislocal": true, "coninhcount": 0,
				"connoinherit": true, "conkey": array(c.columns), "conbin": nil}
			if c.kind == "f" {
				r["confupdtype"], r["confdeltype"], r["confmatchtype"] = actionLetter(c.onUpdate), actionLetter(c.onDelete), "s"
				r["confkey"] = array(c.refColumns)
				if c.table != nil {
					r["confrelid"] = c.table.oid
				}
			}
			if c.kind == "c" {
				r["conbin"] = c.definition
			}
			add(r)
		}
	}
}

func actionLetter(action string) string {
	switch action {
	case "CASCADE":
		return "c"
	case "SET NULL":
		return "n"
	case "SET DEFAULT":
		return "d"
	case "RESTRICT":
		return "r"
	}
	return "a"
}

func fillTrigger(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, g := range t.triggers {
			timing, events := g.when()
			typ := 1 // FOR EACH ROW
			typ |= map[string]int{"BEFORE": 2, "INSTEAD OF": 64}[timing]
			typ |= map[string]int{"INSERT": 4, "DELETE": 8, "UPDATE": 16}[events]
			add(row{"oid": g.oid, "tgrelid": t.oid, "tgparentid": 0, "tgname": g.name, "tgfoid": 0, "tgtype": typ, "tgenabled": "O",
				"tgisinternal": false, "tgconstrrelid": 0, "tgconstrindid": 0, "tgconstraint": 0, "tgdeferrable": false,
				"tginitdeferred": false, "tgnargs": 0, "tgattr": ""})
		}
	}
}

func fillTables(f *facts, add func(row)) {
	for _, t := range f.tables {
		if !t.view {
			add(row{"schemaname": "public", "tablename": t.name, "tableowner": owner, "hasindexes": len(t.indexes) > 0, "hasrules": false,
				"hastriggers": len(t.triggers) > 0, "rowsecurity": false})
		}
	}
}

func fillViews(f *facts, add func(row)) {
	for _, t := range f.tables {
		if t.view {
			add(row{"schemaname": "public", "viewname": t.name, "viewowner": owner, "definition": viewQuery(t.sql)})
		}
	}
}

func fillIndexes(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, i := range t.indexes {
			add(row{"schemaname": "public", "tablename": t.name, "indexname": i.name, "indexdef": i.definition(t)})
		}
	}
}

// fillNames makes the texts that functions of PostgreSQL return.
func fillNames(f *facts, add func(row)) {
	name := func(kind string, id any, part int, text string) {
		add(row{"skein_kind": kind, "skein_id": id, "skein_part": part, "skein_text": text})
	}
	for _, t := range basicTypes {
		name("type", t.oid, 0, t.format)
	}
	name("type", 0, 0, "-")
	name("class", 0, 0, "-")
	fillNamespace(f, func(r row) { name("namespace", r["oid"], 0, r["nspname"].(string)) })
	fillClass(f, func(r row) { name("class", r["oid"], 0, quoteIdent(r["relname"].(string))) })
	f.roles(func(oid int, role string) { name("role", oid, 0, role) })
	for _, t := range f.tables {
		if t.view {
			name("view", t.oid, 0, viewQuery(t.sql))
		}
		for _, c := range t.constraints {
			name("constraint", c.oid, 0, c.definition)
		}
		for _, g := range t.triggers {
			name("trigger", g.oid, 0, squeeze(g.sql))
		}
		for _, i := range t.indexes {
			name("index", i.oid, 0, i.definition(t))
			for n, c := range i.columns {
				text := "expr"
				if c.number > 0 {
					text = quoteIdent(c.name)
				}
				name("index", i.oid, n+1, text)
			}
		}
	}
}
