package adopter

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/overload"

	billingv1 "example.com/adopter/proto/billing/v1"
)

// PayAtBilling is the shop's handler of the click on "Pay". asks returns the user of the
// request's session, and the call that this click stands for.
func PayAtBilling(issuer *handoff.Issuer, asks func(*http.Request) (User, *billingv1.PayRequest)) http.Handler {
	click := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, req := asks(r)
		raw, err := HandOffPayment(r.Context(), issuer, user, req)
		if err == nil {
			err = handoffweb.Send(w, handoffweb.Passage{Token: raw, To: "https://billing.example"})
		}
		if err != nil {
			http.Error(w, "The payment cannot be handed off now.", http.StatusInternalServerError)
		}
	})
	return http.NewCrossOriginProtection().Handler(click) // a click on another site is none
}

// BillingPages are the pages on which the audience's users confirm. They call the
// audience's own gRPC server, at this address, as any client does, and its shedder is
// theirs.
func BillingPages(verifier *handoff.Verifier, shedder *overload.Shedder, address string, trusting credentials.TransportCredentials) (http.Handler, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(trusting)) // into this very server
	if err != nil {
		return nil, nil, err
	}
	landing, err := handoffweb.NewLanding(handoffweb.LandingConfig{
		Verifier: verifier, Server: conn, Admit: shedder.Admit,
		From: map[string]handoffweb.Origin{
			"https://shop.example": {Origin: "https://shop.example", Return: "https://shop.example/orders/"},
		},
	})
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/handoff", landing)
	mux.Handle("/handoff/", landing)
	return mux, conn, nil
}

// ServePages serves the pages until ctx ends. The shedder counts their connections with
// those of the gRPC server, if it is that server's.
func ServePages(ctx context.Context, listener net.Listener, config *tls.Config, shedder *overload.Shedder, pages http.Handler) error {
	s := &http.Server{
		Handler: pages, TLSConfig: config, ConnState: shedder.ConnState,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 8, WriteByteTimeout: 5 * time.Second},
	}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	return s.ServeTLS(shedder.Listener(listener), "", "")
}
