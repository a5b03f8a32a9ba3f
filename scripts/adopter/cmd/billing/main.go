// Command billing serves the stranger's billing service, with
// the issuer's public keys in shop.jwks and a certificate in tls, as README's
// quick start makes them.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"os/signal"
	"syscall"

	"google.golang.org/grpc/credentials"

	"example.com/adopter"
)

func main() {
	owner := flag.String("owner", "", "`id` of the user who owns invoice INV-1, as \"handoff-server1 user add\" tells it")
	listen := flag.String("listen", "127.0.0.1:8442", "`address` to serve on")
	flag.Parse()
	if err := run(*owner, *listen); err != nil {
		log.Fatal(err)
	}
}

func run(owner, listen string) error {
	if owner == "" {
		return errors.New("-owner is required")
	}
	tls, err := credentials.NewServerTLSFromFile("tls/server.pem", "tls/server.key")
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log.Print("serving on ", listener.Addr(), "; what is issued in the next seconds is refused, as this server's memory of redemptions begins now")
	return adopter.ServeBilling(ctx, listener, tls, adopter.Billing{Owner: owner})
}
