"""What a fault domain shares: breaker, bulkhead, retry budget, rate limits."""
