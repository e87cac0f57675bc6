package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/httpapi"
)

func (a *app) dbReplicateCommand() *cobra.Command {
	var choice httpapi.Choice
	c := &cobra.Command{
		Use:   "replicate NAME",
		Short: "Choose what partial replicas get of a table, or show what is chosen",
		Long: "replicate writes the triggers that say what a database of log format trigger sends to\n" +
			"partial replicas (skein follow). At first that is every table, whole. Replicas that may\n" +
			"lead always get everything.\n\n" +
			"The triggers are plain SQL, named skein_log_TABLE_insert, _update and _delete; change them\n" +
			"as you like. Without --table replicate lists them. In --where a row is NEW, and columns\n" +
			"are compared without their declared type, as SQLite does in triggers.",
		Example: "  skein db replicate shop\n" +
			"  skein db replicate shop --table orders --columns total,region --where \"NEW.region = 'eu'\"\n" +
			"  skein db replicate shop --table passwords --none",
		Args: exact("NAME"),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if choice.Table == "" && (len(choice.Columns) > 0 || choice.Where != "" || choice.None) {
			return usageError{fmt.Errorf("--table is missing"), c}
		}
		if choice.None && (len(choice.Columns) > 0 || choice.Where != "") {
			return usageError{fmt.Errorf("--none goes with neither --columns nor --where"), c}
		}
		return a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			return a.replicate(ctx, client, args[0], choice)
		})(c, args)
	}
	flags := c.Flags()
	flags.SortFlags = false
	flags.StringVar(&choice.Table, "table", "", "the table")
	flags.StringSliceVar(&choice.Columns, "columns", nil, "columns that are sent beside the key, comma-separated (default: the whole row)")
	flags.StringVar(&choice.Where, "where", "", "which rows: an expression of NEW.column (default: all)")
	flags.BoolVar(&choice.None, "none", false, "send nothing of the table")
	return a.remote(a.withJSON(c))
}

func (a *app) replicate(ctx context.Context, client *adminclient.Client, name string, choice httpapi.Choice) error {
	var list []httpapi.ChosenTrigger
	var err error
	if choice.Table == "" {
		list, err = client.Choice(ctx, name)
	} else {
		list, err = client.Choose(ctx, name, choice)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(list)
	}
	if choice.Table != "" {
		return a.done("Table %s: %s. Partial replicas take a new copy.", choice.Table, choiceText(choice))
	}
	tab := table(a.out)
	fmt.Fprintln(tab, "TABLE\tTRIGGER\tSQL")
	for _, t := range list {
		fmt.Fprintf(tab, "%s\t%s\t%s\n", t.Table, t.Trigger, strings.Join(strings.Fields(t.SQL), " "))
	}
	return tab.Flush()
}

func choiceText(c httpapi.Choice) string {
	if c.None {
		return "nothing is sent"
	}
	text := "whole rows"
	if len(c.Columns) > 0 {
		text = "the key and " + strings.Join(c.Columns, ", ")
	}
	if c.Where != "" {
		text += " where " + c.Where
	}
	return text
}
