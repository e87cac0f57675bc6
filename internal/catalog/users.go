package catalog

import (
	"cmp"
	"encoding/base64"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/base"
)

// CreateUser makes a user without grants. The credential is computed outside.
type CreateUser struct {
	User       string `json:"user"`
	Credential string `json:"credential"`
}

// SetPassword replaces a user's credential.
type SetPassword struct {
	User       string `json:"user"`
	Credential string `json:"credential"`
}

// Grant gives a user a right to a database, or to AnyDatabase, instead of the
// one it had.
type Grant struct {
	User     string `json:"user"`
	Database string `json:"database"`
	Right    Right  `json:"right"`
}

// Revoke takes a user's right to a database, or to AnyDatabase.
type Revoke struct {
	User     string `json:"user"`
	Database string `json:"database"`
}

// DropUser drops a user and its grants.
type DropUser struct {
	User string `json:"user"`
}

// SetSetting sets a setting; an empty value takes it away.
type SetSetting struct {
	Setting string `json:"setting"`
	Value   string `json:"value"`
}

func (CreateUser) verb() string  { return "create_user" }
func (SetPassword) verb() string { return "set_password" }
func (Grant) verb() string       { return "grant" }
func (Revoke) verb() string      { return "revoke" }
func (DropUser) verb() string    { return "drop_user" }
func (SetSetting) verb() string  { return "set_setting" }

var userName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.@-]{0,62}$`)

func (a CreateUser) apply(d *draft) *base.Error {
	if !userName.MatchString(a.User) {
		return base.Errorf(base.KindInvalid, "user name %.80q: want a letter or _, then up to 62 letters, digits, _ . @ and -", a.User)
	}
	if err := checkCredential(a.Credential); err != nil {
		return err
	}
	at, found := slices.BinarySearchFunc(d.users, a.User, func(u User, name string) int { return cmp.Compare(u.Name, name) })
	if found {
		return base.Errorf(base.KindExists, "user %q exists already", a.User)
	}
	if len(d.users) >= MaxUsers {
		return base.Errorf(base.KindTooLarge, "the cluster has %d users, which is the limit", MaxUsers)
	}
	d.users = slices.Insert(d.users, at, User{Name: a.User, Credential: a.Credential})
	return nil
}

// checkCredential keeps a plain password or half a credential out of the log.
func checkCredential(c string) *base.Error {
	bad := base.Errorf(base.KindInvalid, "the credential is not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")
	parts := strings.Split(c, "$")
	if len(parts) != 3 || parts[0] != "SCRAM-SHA-256" || len(c) > 512 {
		return bad
	}
	iterations, salt, ok := strings.Cut(parts[1], ":")
	stored, server, ok2 := strings.Cut(parts[2], ":")
	n, err := strconv.Atoi(iterations)
	if !ok || !ok2 || err != nil || n < 1 {
		return bad
	}
	if decoded(salt) == 0 || decoded(stored) != 32 || decoded(server) != 32 {
		return bad
	}
	return nil
}

func decoded(s string) int {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return -1
	}
	return len(b)
}

func (d *draft) user(name string) (*User, *base.Error) {
	i := d.userAt(name)
	if i < 0 {
		return nil, base.Errorf(base.KindNotFound, "user %.80q does not exist", name)
	}
	return &d.users[i], nil
}

func (a SetPassword) apply(d *draft) *base.Error {
	u, err := d.user(a.User)
	if err != nil {
		return err
	}
	if err := checkCredential(a.Credential); err != nil {
		return err
	}
	u.Credential = a.Credential
	return nil
}

func (a Grant) apply(d *draft) *base.Error {
	u, err := d.user(a.User)
	if err != nil {
		return err
	}
	if a.Right == RightNone || !slices.Contains(rightOrder, a.Right) {
		return base.Errorf(base.KindInvalid, "right %.40q: want read, write or admin", a.Right)
	}
	if _, ok := d.DatabaseByName(a.Database); !ok && a.Database != AnyDatabase {
		return base.Errorf(base.KindNotFound, "database %.80q does not exist", a.Database)
	}
	at, found := u.grantAt(a.Database)
	if !found && len(u.Grants) >= MaxGrants {
		return base.Errorf(base.KindTooLarge, "user %q has %d grants, which is the limit", u.Name, MaxGrants)
	}
	u.Grants = slices.Clone(u.Grants)
	if found {
		u.Grants[at].Right = a.Right
		return nil
	}
	u.Grants = slices.Insert(u.Grants, at, Granted{a.Database, a.Right})
	return nil
}

func (u User) grantAt(database string) (int, bool) {
	return slices.BinarySearchFunc(u.Grants, database, func(g Granted, name string) int { return cmp.Compare(g.Database, name) })
}

func (a Revoke) apply(d *draft) *base.Error {
	u, err := d.user(a.User)
	if err != nil {
		return err
	}
	at, found := u.grantAt(a.Database)
	if !found {
		return base.Errorf(base.KindNotFound, "user %q has no right to %.80q", u.Name, a.Database)
	}
	u.Grants = slices.Delete(slices.Clone(u.Grants), at, at+1)
	return nil
}

func (a DropUser) apply(d *draft) *base.Error {
	if _, err := d.user(a.User); err != nil {
		return err
	}
	i := d.userAt(a.User)
	d.users = slices.Delete(d.users, i, i+1)
	return nil
}

func (a SetSetting) apply(d *draft) *base.Error {
	if a.Setting == "" || len(a.Setting) > 64 || len(a.Value) > maxSetting {
		return base.Errorf(base.KindInvalid, "a setting has a name of 1 to 64 bytes and a value of at most %d", maxSetting)
	}
	at, found := slices.BinarySearchFunc(d.settings, a.Setting, func(s Setting, name string) int { return cmp.Compare(s.Name, name) })
	switch {
	case a.Value == "" && found:
		d.settings = slices.Delete(d.settings, at, at+1)
	case a.Value == "":
	case found:
		d.settings[at].Value = a.Value
	case len(d.settings) >= MaxSettings:
		return base.Errorf(base.KindTooLarge, "there are %d settings, which is the limit", MaxSettings)
	default:
		d.settings = slices.Insert(d.settings, at, Setting{a.Setting, a.Value})
	}
	return nil
}
