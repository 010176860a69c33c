//! Health, placement groups and users.

use crate::client::Client;
use crate::client_file::{ClientFile, MetaAddress};
use crate::meta::unexpected;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{PgId, PoolId, ServerId};
use quarry_common::wire::meta::admin::AdminReply;
use quarry_common::wire::meta::{
    AdminOp, MetaserverStatus, NewMetaserver, PgStatus, Settings, Status, User,
};

impl Client {
    /// Health in one screen.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn status(&self) -> Result<Status> {
        match self.admin(AdminOp::Status).await? {
            AdminReply::Status(status) => Ok(*status),
            _ => Err(unexpected("the status")),
        }
    }

    /// What else people must know, each with what to do.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn warnings(&self) -> Result<Vec<String>> {
        match self.admin(AdminOp::Warnings).await? {
            AdminReply::Warnings(warnings) => Ok(warnings),
            _ => Err(unexpected("the warnings")),
        }
    }

    /// What the leader decides by.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn settings(&self) -> Result<Settings> {
        match self.admin(AdminOp::Settings).await? {
            AdminReply::Settings(settings) => Ok(settings),
            _ => Err(unexpected("the settings")),
        }
    }

    /// A page of placement groups from `from` on, at most 4,096.
    ///
    /// # Errors
    /// `NotFound` for an unknown pool.
    pub async fn pgs(&self, pool: PoolId, from: PgId) -> Result<Vec<PgStatus>> {
        match self.admin(AdminOp::Pgs { pool, from }).await? {
            AdminReply::Pgs(pgs) => Ok(pgs),
            _ => Err(unexpected("placement groups")),
        }
    }

    /// All placement groups of a pool.
    ///
    /// # Errors
    /// `NotFound` for an unknown pool.
    pub async fn all_pgs(&self, pool: PoolId) -> Result<Vec<PgStatus>> {
        let mut all: Vec<PgStatus> = Vec::new();
        loop {
            let from = all.last().map_or(PgId(0), |last| PgId(last.pg.0 + 1));
            let page = self.pgs(pool, from).await?;
            let pg_count = self.map().pool(pool).map_or(0, |pool| pool.pg_count);
            let done = page.is_empty();
            all.extend(page);
            let last = all.last().map_or(0, |last| last.pg.0 + 1);
            if done || last >= pg_count {
                return Ok(all);
            }
        }
    }

    /// Adds a user; returns its client file.
    ///
    /// # Errors
    /// `Exists`; `NotPermitted` for anybody but an admin.
    pub async fn add_user(&self, user: User) -> Result<ClientFile> {
        let name = user.name.clone();
        self.issued(AdminOp::AddUser(user), name).await
    }

    /// A new client file for a user that there is. What the user has stays good until it expires.
    ///
    /// # Errors
    /// `NotFound`; `NotPermitted` for anybody but an admin.
    pub async fn renew_user(&self, name: &str) -> Result<ClientFile> {
        let name = name.to_owned();
        self.issued(AdminOp::RenewUser(name.clone()), name).await
    }

    async fn issued(&self, op: AdminOp, user: String) -> Result<ClientFile> {
        match self.admin(op).await? {
            AdminReply::Identity { pem, metaservers } => Ok(ClientFile {
                cluster: self.file().cluster,
                metaservers: metaservers
                    .into_iter()
                    .map(|(id, address)| MetaAddress { id, address })
                    .collect(),
                identity: pem,
                user,
            }),
            _ => Err(unexpected("an identity")),
        }
    }

    /// Invites a metaserver that will be reached at that address; what it is started with.
    ///
    /// # Errors
    /// `Exists`: one is there already; `NotPermitted` for anybody but an admin.
    pub async fn add_metaserver(&self, address: String) -> Result<NewMetaserver> {
        match self.admin(AdminOp::AddMetaserver(address)).await? {
            AdminReply::NewMetaserver(new) => Ok(*new),
            _ => Err(unexpected("a new metaserver")),
        }
    }

    /// Removes a metaserver from the cluster.
    ///
    /// # Errors
    /// `NotFound`; `NotPermitted` for anybody but an admin; `Busy`: too few of the others run to go on without it, or
    /// another change is under way.
    pub async fn remove_metaserver(&self, id: ServerId) -> Result<()> {
        if !self.metaservers().await?.iter().any(|there| there.id == id) {
            let text =
                format!("there is no metaserver {id}: 'quarry metaserver status' lists them");
            return Err(Error::new(Code::NotFound, text));
        }
        match self.admin(AdminOp::RemoveMetaserver(id)).await {
            Ok(AdminReply::Done) => Ok(()),
            Ok(_) => Err(unexpected("that a metaserver is removed")),
            // A leader that removed itself may not live to say so; the next one does not know it any more.
            Err(error) if error.code == Code::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All metaservers, and how far each is.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn metaservers(&self) -> Result<Vec<MetaserverStatus>> {
        match self.admin(AdminOp::Metaservers).await? {
            AdminReply::Metaservers(metaservers) => Ok(metaservers),
            _ => Err(unexpected("metaservers")),
        }
    }

    /// All users.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn users(&self) -> Result<Vec<User>> {
        match self.admin(AdminOp::Users).await? {
            AdminReply::Users(users) => Ok(users),
            _ => Err(unexpected("users")),
        }
    }
}
