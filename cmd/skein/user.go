package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

func (a *app) userCommand() *cobra.Command {
	return group("user", "Add, list and drop users, and their rights",
		"A user has the right read, write or admin on a database, or on all of them (*). Admin\n"+
			"on * also manages nodes, databases and users.",
		a.userAddCommand(), a.userListCommand(), a.userGrantCommand(), a.userRevokeCommand(), a.userPasswordCommand(), a.userDropCommand())
}

const passwordHelp = "The password is asked for, or read as one line from standard input when that is no terminal."

func (a *app) userAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "add NAME",
		Short:   "Add a user, who has no rights yet",
		Long:    "add makes a user. " + passwordHelp,
		Example: "  skein user add ann\n  skein user grant ann write shop\n  pass show ann | skein user add ann",
		Args:    exact("NAME"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			password, err := a.newPassword()
			if err != nil {
				return err
			}
			if err := client.CreateUser(ctx, args[0], password); err != nil {
				return err
			}
			return a.done("User %s is added. `skein user grant %s read|write|admin DATABASE` gives rights.", args[0], args[0])
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) userPasswordCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "password NAME",
		Short:   "Change a password",
		Long:    "password sets a new password. " + passwordHelp,
		Example: "  skein user password ann",
		Args:    exact("NAME"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			password, err := a.newPassword()
			if err != nil {
				return err
			}
			if err := client.SetPassword(ctx, args[0], password); err != nil {
				return err
			}
			return a.done("The password of %s is changed.", args[0])
		}),
	}
	return a.remote(a.withJSON(c))
}

// newPassword asks twice on a terminal, and reads one line otherwise.
func (a *app) newPassword() (string, error) {
	if !a.inTerminal {
		line, err := bufio.NewReader(io.LimitReader(a.in, 4096)).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return notEmpty(strings.TrimRight(line, "\r\n"))
	}
	var entered [2]string
	for i, prompt := range []string{"New password: ", "Again: "} {
		fmt.Fprint(a.err, prompt)
		b, err := a.readPassword()
		fmt.Fprintln(a.err)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		entered[i] = string(b)
	}
	if entered[0] != entered[1] {
		return "", base.Errorf(base.KindInvalid, "the two passwords differ; nothing was changed")
	}
	return notEmpty(entered[0])
}

func notEmpty(password string) (string, error) {
	if password == "" {
		return "", base.Errorf(base.KindInvalid, "the password is empty")
	}
	return password, nil
}

func (a *app) userListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List users and their rights",
		Example: "  skein user list",
		Args:    exact(),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, _ []string) error {
			users, err := client.ListUsers(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(users)
			}
			tab := table(a.out)
			fmt.Fprintln(tab, "USER\tRIGHTS")
			for _, u := range users {
				rights := make([]string, len(u.Grants))
				for i, g := range u.Grants {
					rights[i] = fmt.Sprintf("%s on %s", g.Right, g.Database)
				}
				fmt.Fprintf(tab, "%s\t%s\n", u.Name, strings.Join(rights, ", "))
			}
			return tab.Flush()
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) userGrantCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "grant NAME RIGHT DATABASE",
		Short:   "Give read, write or admin on a database, or on all ('*')",
		Example: "  skein user grant ann write shop\n  skein user grant ops admin '*'",
		Args:    exact("NAME", "RIGHT", "DATABASE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			right, err := httpapi.ParseRight(args[1])
			if err != nil {
				return err
			}
			if err := client.Grant(ctx, args[0], args[2], right); err != nil {
				return err
			}
			return a.done("User %s has the right %s on %s.", args[0], right, args[2])
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) userRevokeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "revoke NAME DATABASE",
		Short:   "Take away what grant gave on a database, or on all ('*')",
		Example: "  skein user revoke ann shop",
		Args:    exact("NAME", "DATABASE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			if err := client.Revoke(ctx, args[0], args[1]); err != nil {
				return err
			}
			return a.done("What %s was granted on %s is revoked.", args[0], args[1])
		}),
	}
	return a.remote(a.withJSON(c))
}

func (a *app) userDropCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "drop NAME",
		Short:   "Remove a user",
		Example: "  skein user drop ann",
		Args:    exact("NAME"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			if err := client.DropUser(ctx, args[0]); err != nil {
				return err
			}
			return a.done("User %s is dropped.", args[0])
		}),
	}
	return a.remote(a.withJSON(c))
}
