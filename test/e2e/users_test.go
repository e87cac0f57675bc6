package e2e

import (
	"strings"
	"testing"
)

// Passwords and rights, as psql meets them on nodes that trust nobody.
func TestUsersAndRights(t *testing.T) {
	full(t)
	tool(t, "psql")
	c := startCluster(t, 3)
	admin := c.nodes[0].url()
	// The third node does not trust this machine.
	strict := c.nodes[2]
	strict.stop(t)
	strict.trust = false
	strict.start()
	eventually(t, patience, "the strict node answers", func() error {
		_, err := strict.psqlAs("nobody", "x", "main", "select 1")
		if err != nil && strings.Contains(err.Error(), "28P01") || err != nil && strings.Contains(err.Error(), "password authentication failed") {
			return nil
		}
		return err
	})
	c.whole("main")
	mustRun(t, admin, "db", "create", "shop")
	c.whole("shop")
	for user, password := range map[string]string{"ann": "sécret 'x'", "bob": "bob"} {
		if _, errs, err := run(password+"\n", admin, "user", "add", user); err != nil {
			t.Fatalf("user add %s: %s", user, errs)
		}
	}
	mustRun(t, admin, "user", "grant", "ann", "write", "shop")
	mustRun(t, admin, "user", "grant", "ann", "read", "main")
	c.nodes[0].mustPsql("shop", "create table t(x); insert into t values(1);")
	c.nodes[0].mustPsql("main", "create table t(x); insert into t values(1);")
	allowed := func(user, password, database, sql, want string) {
		t.Helper()
		eventually(t, patience, user+": "+sql, func() error {
			got, err := strict.psqlAs(user, password, database, sql)
			if err == nil && got != want {
				t.Errorf("%s in %s: %s: %q, want %q", user, database, sql, got, want)
			}
			return err
		})
	}
	denied := func(user, password, database, sql, word string) {
		t.Helper()
		eventually(t, patience, user+" is refused: "+sql, func() error {
			got, err := strict.psqlAs(user, password, database, sql)
			if err == nil || !strings.Contains(err.Error(), word) {
				return &unexpected{got, err}
			}
			return nil
		})
	}
	ann := "sécret 'x'"
	allowed("ann", ann, "shop", "insert into t values(2); select count(*) from t", "2")
	allowed("ann", ann, "main", "select count(*) from t", "1")
	denied("ann", ann, "main", "insert into t values(2)", "42501")
	denied("ann", ann, "shop", "drop table t", "42501")
	denied("ann", ann, "shop", "create table u(x)", "42501")
	denied("ann", "wrong", "shop", "select 1", "password authentication failed")
	denied("ann", "", "shop", "select 1", "password")
	denied("nobody", "x", "shop", "select 1", "password authentication failed")
	denied("bob", "bob", "shop", "select 1", "bob")
	denied("ann", ann, "nowhere", "select 1", "nowhere")
	// Rights in mid-life: more, less, none.
	mustRun(t, admin, "user", "grant", "ann", "admin", "shop")
	allowed("ann", ann, "shop", "create table u(x); select count(*) from u", "0")
	mustRun(t, admin, "user", "revoke", "ann", "shop")
	denied("ann", ann, "shop", "select 1 from t", "ann")
	if _, errs, err := run("new\n", admin, "user", "password", "ann"); err != nil {
		t.Fatal(errs)
	}
	denied("ann", ann, "main", "select 1", "password authentication failed")
	allowed("ann", "new", "main", "select count(*) from t", "1")
	// Over HTTP the same.
	strictURL := []string{"SKEIN_URL=http://" + strict.http}
	if _, errs, err := run("", strictURL, "status"); err == nil || !strings.Contains(errs, "Hint") {
		t.Errorf("status without a password: %v %s", err, errs)
	} else {
		t.Logf("status without a password: %s", errs)
	}
	if _, errs, err := run("", append(strictURL, "SKEIN_USER=ann", "SKEIN_PASSWORD=new"), "status"); err == nil || !strings.Contains(errs, "right") {
		t.Errorf("status without the right: %v %s", err, errs)
	}
	mustRun(t, admin, "user", "grant", "ann", "read", "*")
	eventually(t, patience, "status with the right", func() error {
		_, errs, err := run("", append(strictURL, "SKEIN_USER=ann", "SKEIN_PASSWORD=new"), "status")
		if err != nil {
			return &unexpected{errs, err}
		}
		return nil
	})
	mustRun(t, admin, "user", "drop", "ann")
	denied("ann", "new", "main", "select 1", "password authentication failed")
	list := mustRun(t, admin, "user", "list")
	if strings.Contains(list, "ann") || !strings.Contains(list, "bob") {
		t.Errorf("users:\n%s", list)
	}
}

type unexpected struct {
	said string
	err  error
}

func (u *unexpected) Error() string {
	if u.err == nil {
		return "no error: " + u.said
	}
	return u.err.Error() + ": " + u.said
}
