package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// drive calls update from many goroutines at once for a time; each gets
// functions of its own.
func drive(goroutines int, length time.Duration, client func(i int) (update func(delta, aid int64) error, err error)) (speed, error) {
	updates := make([]func(int64, int64) error, goroutines)
	for i := range updates {
		var err error
		if updates[i], err = client(i); err != nil {
			return speed{}, err
		}
	}
	latencies := make([][]time.Duration, goroutines)
	failures := make([]error, goroutines)
	var wg sync.WaitGroup
	begin := time.Now()
	end := begin.Add(length)
	for g, update := range updates {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), uint64(begin.UnixNano())))
			for at := time.Now(); at.Before(end); {
				if err := update(random.Int64N(10_000)-5_000, 1+random.Int64N(rows)); err != nil {
					failures[g] = err
					return
				}
				now := time.Now()
				latencies[g] = append(latencies[g], now.Sub(at))
				at = now
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	for _, err := range failures {
		if err != nil {
			return speed{}, fmt.Errorf("update: %w", err)
		}
	}
	all := slices.Concat(latencies...)
	slices.Sort(all)
	return speed{
		TPS: float64(len(all)) / took.Seconds(), Count: int64(len(all)),
		P50: quantile(all, 0.5), P99: quantile(all, 0.99),
	}, nil
}

// updates is the load of pgbench where there is none, through pgx.
func (n *node) updates(ctx context.Context, clients int, length time.Duration) (speed, error) {
	return drive(clients, length, func(int) (func(int64, int64) error, error) {
		c, err := n.connect(ctx)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { c.Close(context.Background()) })
		return func(delta, aid int64) error {
			_, err := c.Exec(ctx, "UPDATE accounts SET abalance = abalance + $1 WHERE aid = $2", delta, aid)
			return err
		}, nil
	})
}
