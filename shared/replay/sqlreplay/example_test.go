package sqlreplay_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay/sqlreplay"
)

func ExampleOpen() {
	ctx := context.Background()
	db, err := sql.Open("pgx", "postgres://billing@db.internal/billing?sslmode=verify-full")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := sqlreplay.Create(ctx, sqlreplay.Config{DB: db}); err != nil {
		log.Fatal(err)
	}
	store, err := sqlreplay.Open(ctx, sqlreplay.Config{DB: db})
	if err != nil {
		log.Fatal(err) // says what must be changed at the PostgreSQL
	}
	defer store.Close()
	issued := store.Ready()
	err = store.Redeem(ctx, handoff.Redemption{
		Issuer: "https://shop.example", ID: handoff.NewID(),
		IssuedAt: issued, Expires: issued.Add(handoff.KindHandoff.DefaultLifetime()),
	})
	fmt.Println("redeemed:", err == nil)
}

// A method that handoffgrpc.Config.Deferred names redeems in its own transaction.
func ExampleStore_Begin() {
	var store *sqlreplay.Store
	pay := func(ctx context.Context, invoice string) error {
		tx, err := store.Begin(ctx, nil)
		if err != nil {
			return err // the guard tells the caller why
		}
		defer tx.Rollback() // undoes the payment and the redemption
		_, err = tx.ExecContext(ctx, `UPDATE invoices SET paid_by = $1 WHERE id = $2 AND owner = $3`,
			tx.Grant().ID(), invoice, tx.Grant().Subject())
		if err != nil {
			return err
		}
		return tx.Commit() // keeps both
	}
	_ = pay
}
