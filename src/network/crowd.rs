//! How many connections each address has open, and a limit to that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts open connections by customer: an IPv4 address, or the /64 that an IPv6 customer has to choose from.
pub struct Crowd {
    each_max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One open connection. Dropping it makes room.
pub struct Entered {
    crowd: Arc<Crowd>,
    customer: IpAddr,
}

impl Crowd {
    /// Nobody is there yet; each customer may have `each_max` connections.
    pub fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { each_max, open: Mutex::default() })
    }

    /// Lets one more connection of an address in, or none when its customer has as many as allowed.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Entered> {
        let customer = customer(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(customer).or_insert(0);
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        Some(Entered { crowd: Arc::clone(self), customer })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.crowd.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.customer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.customer);
            }
        }
    }
}

/// What counts as one when connections and attempts are counted: an IPv6 customer has a whole /64 to choose from.
pub fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut segments = v6.segments();
            segments[4..].fill(0);
            IpAddr::V6(segments.into())
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_limit_and_who_leaves_makes_room() {
        let crowd = Crowd::new(2);
        let enter = |text: &str| crowd.enter(text.parse().expect("an address"));
        let first = enter("192.0.2.1").expect("room");
        let _second = enter("::ffff:192.0.2.1").expect("room for the same address in another form");
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").expect("another address");
        drop(first);
        let _third = enter("192.0.2.1").expect("room again");
        let _six = (enter("2001:db8::1").expect("room"), enter("2001:db8::2").expect("room"));
        assert!(enter("2001:db8::ffff:3").is_none(), "one /64");
        assert!(enter("2001:db8:0:1::1").is_some(), "another /64");
    }

    #[test]
    fn nothing_is_remembered_of_who_left() {
        let crowd = Crowd::new(1);
        for number in 0..1_000_u32 {
            drop(crowd.enter(IpAddr::from(number.to_be_bytes())).expect("room"));
        }
        assert!(crowd.open.lock().expect("lock").is_empty());
    }
}
