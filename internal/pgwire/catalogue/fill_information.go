package catalogue

import (
	"strings"

	"github.com/skeindb/skein/internal/pgwire/oid"
	"github.com/skeindb/skein/internal/sqltext"
)

// The views of the information schema. Catalog is the database, schema is
// public.

func yesNo(b bool) string {
	if b {
		return "YES"
	}
	return "NO"
}

func fillInfoSchemata(f *facts, add func(row)) {
	for _, name := range []string{"public", "pg_catalog", informationSchema} {
		add(row{"catalog_name": f.database, "schema_name": name, "schema_owner": owner})
	}
}

func fillInfoTables(f *facts, add func(row)) {
	for _, t := range f.tables {
		kind := "BASE TABLE"
		if t.view {
			kind = "VIEW"
		}
		add(row{"table_catalog": f.database, "table_schema": "public", "table_name": t.name, "table_type": kind,
			"is_insertable_into": yesNo(!t.view), "is_typed": "NO"})
	}
}

func fillInfoViews(f *facts, add func(row)) {
	for _, t := range f.tables {
		if t.view {
			add(row{"table_catalog": f.database, "table_schema": "public", "table_name": t.name, "view_definition": viewQuery(t.sql),
				"check_option": "NONE", "is_updatable": "NO", "is_insertable_into": "NO", "is_trigger_updatable": "NO",
				"is_trigger_deletable": "NO", "is_trigger_insertable_into": "NO"})
		}
	}
}

func fillInfoColumns(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.columns {
			r := row{"table_catalog": f.database, "table_schema": "public", "table_name": t.name, "column_name": c.name,
				"ordinal_position": c.number, "is_nullable": yesNo(!c.notNull), "data_type": formatOf(c.typ), "udt_catalog": f.database,
				"udt_schema": "pg_catalog", "udt_name": nameOf(c.typ), "dtd_identifier": c.number, "is_self_referencing": "NO",
				"is_identity": yesNo(c.rowid), "identity_cycle": "NO", "is_generated": "NEVER", "is_updatable": yesNo(!t.view && !c.generated)}
			if c.rowid {
				r["identity_generation"] = "BY DEFAULT"
			}
			switch {
			case c.generated:
				r["is_generated"], r["generation_expression"] = "ALWAYS", c.def
			case c.hasDef:
				r["column_default"] = c.def
			}
			lengths(r, c)
			add(r)
		}
	}
}

func lengths(r row, c *tableColumn) {
	switch c.typ {
	case oid.Varchar, oid.BPChar:
		if c.typmod > 4 {
			r["character_maximum_length"] = c.typmod - 4
		}
	case oid.Int8:
		r["numeric_precision"], r["numeric_precision_radix"], r["numeric_scale"] = 64, 2, 0
	case oid.Float8:
		r["numeric_precision"], r["numeric_precision_radix"] = 53, 2
	case oid.Numeric:
		r["numeric_precision_radix"] = 10
		if c.typmod > 4 {
			r["numeric_precision"], r["numeric_scale"] = (c.typmod-4)>>16, (c.typmod-4)&0xffff
		}
	case oid.Timestamp, oid.TimestampTZ:
		r["datetime_precision"] = 6
	case oid.Date:
		r["datetime_precision"] = 0
	}
}

func formatOf(typ uint32) string {
	for _, t := range basicTypes {
		if t.oid == typ {
			return t.format
		}
	}
	return ""
}

func nameOf(typ uint32) string {
	for _, t := range basicTypes {
		if t.oid == typ {
			return t.name
		}
	}
	return ""
}

var constraintWords = map[string]string{"p": "PRIMARY KEY", "u": "UNIQUE", "f": "FOREIGN KEY", "c": "CHECK"}

func fillInfoConstraints(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.constraints {
			add(row{"constraint_catalog": f.database, "constraint_schema": "public", "constraint_name": c.name,
				"table_catalog": f.database, "table_schema": "public", "table_name": t.name, "constraint_type": constraintWords[c.kind],
				"is_deferrable": "NO", "initially_deferred": "NO", "enforced": "YES"})
		}
	}
}

func fillInfoKeyColumns(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.constraints {
			for n, number := range c.columns {
				if c.kind == "c" || number < 1 || number > len(t.columns) {
					continue
				}
				r := row{"constraint_catalog": f.database, "constraint_schema": "public", "constraint_name": c.name,
					"table_catalog": f.database, "table_schema": "public", "table_name": t.name,
					"column_name": t.columns[number-1].name, "ordinal_position": n + 1}
				if c.kind == "f" {
					r["position_in_unique_constraint"] = n + 1
				}
				add(r)
			}
		}
	}
}

// fillInfoConstraintColumns names the columns that a constraint is about: of a
// foreign key those that it points to.
func fillInfoConstraintColumns(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.constraints {
			on, columns := t, c.columns
			if c.kind == "f" {
				on, columns = c.table, c.refColumns
			}
			for _, number := range columns {
				if on == nil || number < 1 || number > len(on.columns) {
					continue
				}
				add(row{"table_catalog": f.database, "table_schema": "public", "table_name": on.name,
					"column_name": on.columns[number-1].name, "constraint_catalog": f.database,
					"constraint_schema": "public", "constraint_name": c.name})
			}
		}
	}
}

func fillInfoReferential(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, c := range t.constraints {
			if c.kind != "f" {
				continue
			}
			r := row{"constraint_catalog": f.database, "constraint_schema": "public", "constraint_name": c.name,
				"match_option": "NONE", "update_rule": c.onUpdate, "delete_rule": c.onDelete}
			if c.table != nil {
				for _, u := range c.table.constraints {
					if u.index == c.index && u.kind != "f" {
						r["unique_constraint_catalog"], r["unique_constraint_schema"], r["unique_constraint_name"] = f.database, "public", u.name
					}
				}
			}
			add(r)
		}
	}
}

func fillInfoTriggers(f *facts, add func(row)) {
	for _, t := range f.tables {
		for _, g := range t.triggers {
			timing, event := g.when()
			add(row{"trigger_catalog": f.database, "trigger_schema": "public", "trigger_name": g.name, "event_manipulation": event,
				"event_object_catalog": f.database, "event_object_schema": "public", "event_object_table": t.name,
				"action_statement": squeeze(g.sql), "action_orientation": "ROW", "action_timing": timing})
		}
	}
}

// when reads a trigger's timing and event; AFTER... is written out by SQLite's
// default BEFORE.
func (g *trigger) when() (timing, event string) {
	s := sqltext.Scanner{SQL: g.sql}
	timing = "BEFORE"
	for {
		t, ok := s.Next()
		if !ok {
			return timing, event
		}
		switch word := strings.ToUpper(t.Text(g.sql)); word {
		case "BEFORE", "AFTER":
			timing = word
		case "INSTEAD":
			timing = "INSTEAD OF"
		case "INSERT", "UPDATE", "DELETE":
			return timing, word
		}
	}
}
