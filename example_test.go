package skein_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/skeindb/skein"
)

// A single node is a whole cluster.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "skein")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	node, err := skein.Open(ctx, skein.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	db, err := node.EnsureDatabase(ctx, "main", skein.Policy{})
	if err != nil {
		log.Fatal(err)
	}

	if _, err := db.Exec(ctx, "CREATE TABLE geese(name TEXT PRIMARY KEY, weight REAL)"); err != nil {
		log.Fatal(err)
	}
	if _, err := db.Exec(ctx, "INSERT INTO geese VALUES (?1, ?2), ('Akka', 3.25)", "Martin", 4.5); err != nil {
		log.Fatal(err)
	}
	rows, err := db.Query(ctx, "SELECT name, weight FROM geese ORDER BY name")
	if err != nil {
		log.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var weight float64
		if err := rows.Scan(&name, &weight); err != nil {
			log.Fatal(err)
		}
		fmt.Println(name, weight)
	}
	if err := rows.Err(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// Akka 3.25
	// Martin 4.5
}

// Three nodes in one program; usually they are programs on three machines.
func Example_cluster() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "skein")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	first, err := skein.Open(ctx, skein.Options{Dir: dir + "/n1", Name: "n1"})
	if err != nil {
		log.Fatal(err)
	}
	defer first.Close()
	nodes := []*skein.Node{first}
	for _, name := range []string{"n2", "n3"} {
		n, err := skein.Open(ctx, skein.Options{Dir: dir + "/" + name, Name: name, Join: []string{first.PeerAddress()}})
		if err != nil {
			log.Fatal(err)
		}
		defer n.Close()
		nodes = append(nodes, n)
	}
	if err := first.CreateDatabase(ctx, "main", skein.DefaultPolicy()); err != nil {
		log.Fatal(err)
	}

	// Any node takes writes.
	second, err := nodes[1].EnsureDatabase(ctx, "main", skein.DefaultPolicy())
	if err != nil {
		log.Fatal(err)
	}
	if _, err := second.Exec(ctx, "CREATE TABLE t(x)"); err != nil {
		log.Fatal(err)
	}
	if _, err := second.Exec(ctx, "INSERT INTO t VALUES (42)"); err != nil {
		log.Fatal(err)
	}
	// With the token another node shows what was written here.
	third, err := nodes[2].EnsureDatabase(ctx, "main", skein.DefaultPolicy())
	if err != nil {
		log.Fatal(err)
	}
	if err := third.SetToken(second.Token()); err != nil {
		log.Fatal(err)
	}
	var x int
	if err := third.QueryRow(ctx, "SELECT x FROM t").Scan(&x); err != nil {
		log.Fatal(err)
	}
	fmt.Println(x)
	// Output: 42
}

func ExampleDB_InTx() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "skein")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	node, err := skein.Open(ctx, skein.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	db, err := node.EnsureDatabase(ctx, "bank", skein.Policy{})
	if err != nil {
		log.Fatal(err)
	}
	for _, sql := range []string{"CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER)", "INSERT INTO account VALUES (1, 100), (2, 0)"} {
		if _, err := db.Exec(ctx, sql); err != nil {
			log.Fatal(err)
		}
	}

	_, err = db.InTx(ctx, func(tx *skein.Tx) error {
		var have int
		if err := tx.QueryRow(ctx, "SELECT balance FROM account WHERE id = 1").Scan(&have); err != nil {
			return err
		}
		if have < 30 {
			return fmt.Errorf("only %d are left", have)
		}
		if _, err := tx.Exec(ctx, "UPDATE account SET balance = balance - 30 WHERE id = 1"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE account SET balance = balance + 30 WHERE id = 2")
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	var first, second int
	if err := db.QueryRow(ctx, "SELECT min(balance), max(balance) FROM account").Scan(&first, &second); err != nil {
		log.Fatal(err)
	}
	fmt.Println(first, second)
	// Output: 30 70
}

// A destination checks the signature before it believes what it is told.
func ExampleDB_AddWebhook() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "skein")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	node, err := skein.Open(ctx, skein.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	db, err := node.EnsureDatabase(ctx, "main", skein.Policy{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := db.Exec(ctx, "CREATE TABLE geese(name TEXT PRIMARY KEY, weight REAL)"); err != nil {
		log.Fatal(err)
	}

	const secret = "from a file that only the two know"
	changes := make(chan string, 100)
	destination := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		sum := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(sum, "%s.%s", r.Header.Get("Skein-Timestamp"), body)
		if err != nil || !hmac.Equal([]byte(r.Header.Get("Skein-Signature")), []byte("sha256="+hex.EncodeToString(sum.Sum(nil)))) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		for line := range strings.Lines(string(body)) {
			var change struct {
				Op    string          `json:"op"`
				After json.RawMessage `json:"after"`
			}
			if err := json.Unmarshal([]byte(line), &change); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			changes <- fmt.Sprintf("%s %s", change.Op, change.After)
		}
	}))
	defer destination.Close()
	_, err = db.AddWebhook(ctx, skein.WebhookOptions{Name: "watch", URL: destination.URL, Tables: []string{"geese"}, Secret: secret})
	if err != nil {
		log.Fatal(err)
	}
	for _, sql := range []string{"INSERT INTO geese VALUES ('Akka', 3.25)", "UPDATE geese SET weight = 3.5"} {
		if _, err := db.Exec(ctx, sql); err != nil {
			log.Fatal(err)
		}
	}
	for range 2 {
		select {
		case change := <-changes:
			fmt.Println(change)
		case <-ctx.Done():
			fmt.Println("nothing is delivered:", ctx.Err())
		}
	}
	// Output:
	// c {"name":"Akka","weight":3.25}
	// u {"name":"Akka","weight":3.5}
}
