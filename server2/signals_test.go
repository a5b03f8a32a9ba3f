package main

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// I11: neither a log that nobody reads, whether its reader has gone or stays, nor SIGHUP
// ends or holds up SERVER2.
func TestI11NobodyReadsTheLog(t *testing.T) {
	t.Parallel()
	s, _ := goodSettings(t)
	creds, err := credentials.NewClientTLSFromFile(s["tls-cert"], "")
	if err != nil {
		t.Fatal(err)
	}
	servingtest.Unread(t, asProgram, append([]string{"serve"}, s.args()...), func(t *testing.T, address string) {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = server2v1.NewInvoiceServiceClient(conn).GetInvoice(t.Context(), &server2v1.GetInvoiceRequest{})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("SERVER2 answers %v", err)
		}
	})
}
