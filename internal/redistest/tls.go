package redistest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Authority signs certificates for tests. Its own is in File.
type Authority struct {
	File string
	Pool *x509.CertPool

	tb   TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certificate is a certificate and its key, as PEM files and ready for use.
type Certificate struct {
	CertFile, KeyFile string
	Pair              tls.Certificate
}

// NewAuthority makes an authority in a folder of the test.
func NewAuthority(tb TB, name string) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, dir: tb.TempDir(), Pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{
		SerialNumber: serial(tb), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.File = filepath.Join(a.dir, "ca.pem")
	var der []byte
	a.key, der = sign(tb, a.cert, a.cert, nil)
	a.cert = must[*x509.Certificate](tb)(x509.ParseCertificate(der))
	a.Pool.AddCert(a.cert)
	save(tb, a.File, "CERTIFICATE", der)
	return a
}

// Issue makes a certificate for the names, which may be addresses. The first is
// its subject too. Its files are name.pem and name-key.pem: issuing the same name
// again replaces them.
func (a *Authority) Issue(names ...string) Certificate {
	a.tb.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(a.tb), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key, der := sign(a.tb, template, a.cert, a.key)
	c := Certificate{CertFile: filepath.Join(a.dir, names[0]+".pem"), KeyFile: filepath.Join(a.dir, names[0]+"-key.pem")}
	save(a.tb, c.CertFile, "CERTIFICATE", der)
	save(a.tb, c.KeyFile, "PRIVATE KEY", must[[]byte](a.tb)(x509.MarshalPKCS8PrivateKey(key)))
	c.Pair = must[tls.Certificate](a.tb)(tls.LoadX509KeyPair(c.CertFile, c.KeyFile))
	return c
}

// ListenTLS makes the server speak TLS too, at the address that is returned, with
// clients' certificates asked for or not ("yes", "no", "optional").
func (s *Server) ListenTLS(tb TB, c Certificate, a *Authority, clients string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 10 {
		port := must[int](tb)(freePort())
		client := s.Client(0)
		err := client.Do(ctx, "CONFIG", "SET", "tls-cert-file", c.CertFile, "tls-key-file", c.KeyFile,
			"tls-ca-cert-file", a.File, "tls-auth-clients", clients, "tls-port", port).Err()
		if err == nil {
			return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		}
		tb.Logf("listening with TLS on port %d: %v", port, err)
	}
	tb.Fatalf("the server at %s cannot listen with TLS", s.Addr())
	return ""
}

// sign makes a key and a certificate of it; without a parent's key it signs itself.
func sign(tb TB, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	tb.Helper()
	key := must[*ecdsa.PrivateKey](tb)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	if by == nil {
		by = key
	}
	return key, must[[]byte](tb)(x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by))
}

func serial(tb TB) *big.Int {
	tb.Helper()
	return must[*big.Int](tb)(rand.Int(rand.Reader, big.NewInt(1<<62)))
}

// save replaces a file as a whole.
func save(tb TB, name, kind string, der []byte) {
	tb.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		tb.Fatalf("%v", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		tb.Fatalf("%v", err)
	}
}

func must[T any](tb TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatalf("%v", err)
		}
		return v
	}
}
